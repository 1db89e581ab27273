"""Find duplicates: photos of one picture, identical, re-encoded, resized, edited or flipped."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from catsdogs import paths
from catsdogs.data.checked import PhotosChanged, decode_one
from catsdogs.data.decode import PhotoError

#: Photos whose 64-bit perceptual hashes differ in more bits than this are not compared any further.
MAX_HASH_DISTANCE = 10
#: Pairs that correlate at least this much, as 24×24 color pixels, are duplicates. Among the 22,498
#: photos this was chosen on, all duplicates are above 0.998, and the closest pair that is none, two
#: shots of one cat in one place, is at 0.896.
MIN_CORRELATION = 0.95

#: The columns of `find_duplicates`' table and their types.
COLUMNS = {
    "first": str,
    "second": str,
    "exact": bool,
    "flipped": bool,
    "hash_distance": "int64",
    "correlation": "float64",
    "labels_differ": bool,
}


def find_duplicates(table: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
    """All pairs of duplicates among the good photos of `catsdogs.data.check.check_photos`' table.

    Two steps. Candidates are the pairs whose perceptual hashes are close, those of a photo and of
    another's horizontal flip included; of those, pairs that correlate as small color images are
    duplicates. Returns one row per pair: ``first`` and ``second`` (photos), ``exact`` (the files
    are identical), ``flipped``, ``hash_distance`` (bits), ``correlation``, ``labels_differ``.

    Raises `catsdogs.data.checked.PhotosChanged` if candidates are not as the table says any more.
    """
    folder = Path(folder or paths.photos())
    good = table[table.problem == ""].reset_index(drop=True)
    hashes = np.array([int(text, 16) for text in good.hash], np.uint64)
    flipped = np.array([int(text, 16) for text in good.flipped_hash], np.uint64)
    small: dict[int, np.ndarray | PhotoError] = {}

    def pixels(index):
        if index not in small:
            small[index] = decode_one(folder / good.photo[index], good.sha256[index], 24)
        return small[index]

    found = {}
    for is_flipped, others in ((False, hashes), (True, flipped)):
        for first, second, distance in _close(hashes, others):
            if (first, second) in found:
                continue
            a, b = pixels(first), pixels(second)
            if isinstance(a, PhotoError) or isinstance(b, PhotoError):
                continue
            correlation = _correlation(a, b[:, ::-1] if is_flipped else b)
            if correlation >= MIN_CORRELATION:
                found[first, second] = (is_flipped, distance, correlation)
    changed = {good.photo[i]: str(a) for i, a in small.items() if isinstance(a, PhotoError)}
    if changed:
        raise PhotosChanged(changed)
    rows = [
        (
            good.photo[a],
            good.photo[b],
            good.sha256[a] == good.sha256[b],
            is_flipped,
            distance,
            correlation,
            good.label[a] != good.label[b],
        )
        for (a, b), (is_flipped, distance, correlation) in sorted(found.items())
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def group_duplicates(photos: pd.Series, pairs: pd.DataFrame) -> np.ndarray:
    """One integer per photo, shape (photos,): equal for photos that pairs of duplicates connect.

    `pairs` is a table of `find_duplicates`. Raises `ValueError` if a photo in it is not one of
    `photos`.
    """
    index = pd.Index(photos)
    links = index.get_indexer(pairs["first"]), index.get_indexer(pairs["second"])
    if (unknown := np.minimum(*links) < 0).any():
        first, second = pairs.loc[unknown, ["first", "second"]].iloc[0]
        raise ValueError(f"duplicates {first} and {second}: at least one is not among the photos")
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
    a, b = a.astype(np.float32), b.astype(np.float32)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    # Two images of one color each have no correlation; they are alike if their colors are.
    return float((a * b).sum() / scale) if scale > 1e-6 else float(np.abs(a - b).mean() < 1)
