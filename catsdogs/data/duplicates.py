"""Find duplicates: photos of one picture, identical, re-encoded, resized, edited or flipped."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from catsdogs import paths
from catsdogs.data.decode import decode

#: Photos whose 64-bit perceptual hashes differ in more bits than this are not compared any further.
MAX_HASH_DISTANCE = 10
#: Pairs that correlate at least this much, as 24×24 color pixels, are duplicates. Among the 22,498
#: photos this was chosen on, all duplicates are above 0.998, and the closest pair that is none, two
#: shots of one cat in one place, is at 0.896.
MIN_CORRELATION = 0.95


def find_duplicates(table: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
    """All pairs of duplicates among the good photos of `catsdogs.data.check.check_photos`' table.

    Two steps. Candidates are the pairs whose perceptual hashes are close, those of a photo and of
    another's horizontal flip included; of those, pairs that correlate as small color images are
    duplicates. Returns one row per pair: ``first`` and ``second`` (photos), ``exact`` (the files
    are identical), ``flipped``, ``hash_distance`` (bits), ``correlation``, ``labels_differ``.
    """
    folder = Path(folder or paths.photos())
    good = table[table.problem == ""].reset_index(drop=True)
    hashes = np.array([int(text, 16) for text in good.hash], np.uint64)
    flipped = np.array([int(text, 16) for text in good.flipped_hash], np.uint64)
    small = {}

    def pixels(index):
        if index not in small:
            small[index] = decode(folder / good.photo[index], 24).astype(np.float32)
        return small[index]

    found = {}
    for is_flipped, others in ((False, hashes), (True, flipped)):
        for first, second, distance in _close(hashes, others):
            if (first, second) in found:
                continue
            a, b = pixels(first), pixels(second)
            correlation = _correlation(a, b[:, ::-1] if is_flipped else b)
            if correlation >= MIN_CORRELATION:
                found[first, second] = (is_flipped, distance, correlation)
    return pd.DataFrame(
        [
            {
                "first": good.photo[a],
                "second": good.photo[b],
                "exact": good.sha256[a] == good.sha256[b],
                "flipped": is_flipped,
                "hash_distance": distance,
                "correlation": correlation,
                "labels_differ": good.label[a] != good.label[b],
            }
            for (a, b), (is_flipped, distance, correlation) in sorted(found.items())
        ],
        columns=[
            "first",
            "second",
            "exact",
            "flipped",
            "hash_distance",
            "correlation",
            "labels_differ",
        ],
    )


def group_duplicates(photos: pd.Series, pairs: pd.DataFrame) -> np.ndarray:
    """One integer per photo, shape (photos,): equal for photos that pairs of duplicates connect.

    `pairs` is a table of `find_duplicates`, whose photos are all among `photos`.
    """
    index = pd.Index(photos)
    links = index.get_indexer(pairs["first"]), index.get_indexer(pairs["second"])
    graph = coo_array((np.ones(len(pairs)), links), shape=(len(photos), len(photos)))
    return connected_components(graph, directed=False)[1]


def _close(hashes, others):
    """Pairs (i, j, bits), i < j, of hashes[i] and others[j] that differ in few bits."""
    for start in range(0, len(hashes), 512):  # all at once would take gigabytes
        distances = np.bitwise_count(hashes[start : start + 512, None] ^ others[None])
        firsts, seconds = np.nonzero(distances <= MAX_HASH_DISTANCE)
        for first, second in zip(firsts, seconds):
            if start + first < second:
                yield int(start + first), int(second), int(distances[first, second])


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    # Two images of one color each have no correlation; they are alike if their colors are.
    return float((a * b).sum() / scale) if scale > 1e-6 else float(np.abs(a - b).mean() < 1)
