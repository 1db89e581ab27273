"""From an archive to arrays: download, check, find duplicates, split, cache, open as a dataset."""
