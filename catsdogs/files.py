"""Files that are written whole or not at all, and checksums. Standard library only, as downloading needs it."""

import contextlib
import hashlib
import os
from pathlib import Path


@contextlib.contextmanager
def replacing(path, sync=False, same_ending=False):
    """Yield a temporary path beside `path`; when the block ends without an error, it replaces `path` in one step.

    No reader ever sees half a file, and nothing is left behind when the block fails. With `sync`, the
    content is on the disk before the name is, so that a power cut leaves the old file or the new one.
    With `same_ending`, the temporary path has the ending of `path`, by which some libraries choose a format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".{path.name}.{os.getpid()}.partial{path.suffix if same_ending else ''}"
    )
    try:
        yield partial
        if sync:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path, content, sync=False):
    """Write `content`, text (as UTF-8) or bytes, to `path` in one step; see `replacing`."""
    with replacing(path, sync) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def sha256(path):
    """The SHA-256 of a file of any size, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()
