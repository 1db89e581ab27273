"""The integrity check: decode every photo once, and keep a table of what was found."""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import ImageOps
from tqdm.auto import tqdm

from catsdogs import CLASS_NAMES, paths
from catsdogs.data import store, tables
from catsdogs.data.decode import PhotoError, read_image
from catsdogs.parallel import map_in_threads
from catsdogs.text import counted

#: Raise when a column's meaning changes, so that tables of an older kind are made anew.
_VERSION = 3
#: From how many times as many photos of one class as of the other on `notes` says so.
IMBALANCE = 1.5
#: The columns of the table and their types: what a directory listing tells of a file ...
_LISTED = {"photo": str, "label": "int64", "number": "int64", "bytes": "int64", "modified": "int64"}
#: ... and what decoding it tells.
_DECODED = {
    "width": "int64",
    "height": "int64",
    "jfif": bool,
    "sha256": str,
    "hash": str,
    "flipped_hash": str,
    "problem": str,
}
_TYPES = _LISTED | _DECODED


def check_photos(
    folder: Path | None = None, *, again: Collection[str] = (), progress: bool = True
) -> pd.DataFrame:
    """Check the photos below `folder` (by default ``data/PetImages``) and return a table of them.

    One row per photo that `catsdogs.data.store.find_photos` finds, ordered by class and number:

    - ``photo``: its path below `folder`, such as ``Cat/17.jpg``; ``label``: 0 for a cat, 1 for a
      dog; ``number``: the photo's number (see `catsdogs.names.number`), or -1 without one
    - ``bytes``, ``modified`` (ns since 1970), ``width`` and ``height`` (pixels, upright)
    - ``jfif``: whether the file starts with a JFIF header (many good photos have none)
    - ``sha256`` of the file; ``hash`` and ``flipped_hash``: the 64-bit perceptual hash (DCT) of the
      photo and of its horizontal flip, as 16 hexadecimal digits
    - ``problem``: why it cannot be used, or empty for a good photo

    Files are decoded on all cores. The table is kept in ``data/tables``, and a file whose size and
    modification time are those of an earlier check is not decoded again, unless its name is in
    `again`: a failing disk changes neither. Corrupt files are listed in
    ``data/tables/quarantine.csv``; they stay where they are and are never trained on.

    Raises `catsdogs.paths.NotFoundError` if there are no photos.
    """
    folder = Path(folder or paths.photos())
    found = pd.DataFrame(
        _list_files(folder), columns=["label", "number", "photo", "bytes", "modified"]
    )
    if found.empty:
        raise paths.NotFoundError(
            f"no photos in {paths.shown(folder)}: expected some in its folders Cat and Dog. "
            f"Run bash download_data.sh first. {store.left_out(folder)}".rstrip()
        )
    known = _read_table(folder)
    position = pd.Index(known.photo).get_indexer(found.photo)  # -1 for a new file
    same = position >= 0
    for column in ("bytes", "modified"):
        same[same] = known[column].to_numpy()[position[same]] == found[column].to_numpy()[same]
    same &= ~found.photo.isin(list(again)).to_numpy()
    table = known.iloc[position[same]].reset_index(drop=True)
    if not same.all():
        decoded = map_in_threads(
            lambda row: _examine(folder, row), found[~same].to_dict("records"), chunk=8
        )
        rows = tqdm(
            decoded,
            total=int(np.sum(~same)),
            desc="Checking",
            unit=" photos",
            disable=not progress,
            mininterval=0.5,
        )
        fresh = pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)
        table = pd.concat([table, fresh]) if len(table) else fresh
        table = table.sort_values(["label", "number", "photo"], ignore_index=True)
    if len(table) != len(known) or not same.all():
        tables.write(table, _table_path(folder, f"photos-v{_VERSION}"))
    tables.write_plain(quarantine(table), _table_path(folder, "quarantine"))
    return table


def quarantine(table: pd.DataFrame) -> pd.DataFrame:
    """The corrupt files in `check_photos`' table: columns ``photo``, ``bytes``, ``problem``."""
    return table.loc[table.problem != "", ["photo", "bytes", "problem"]].reset_index(drop=True)


def notes(table: pd.DataFrame) -> list[str]:
    """What is worth knowing of the photos in `check_photos`' table, one sentence each.

    That is files that were left out, and classes of unequal size; most often nothing.
    """
    good = table.label[table.problem == ""]
    return list(filter(None, [store.left_out(paths.photos()), imbalance(good)]))


def imbalance(labels: Sequence[int] | np.ndarray) -> str:
    """A sentence if `labels`, 0 or 1, are of classes of unequal size; otherwise empty."""
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    if counts.max() <= IMBALANCE * counts.min():
        return ""
    (few, many), (rare, usual) = sorted(counts), [CLASS_NAMES[i] for i in np.argsort(counts)]
    return (
        f"The classes are imbalanced: {counted(many, usual)} and {counted(few, rare)}. A network "
        f"that always predicts {usual} has an accuracy of {many / counts.sum():.0%}: compare with "
        'that, not with 50%, and set CLASS_WEIGHT = "balanced" in notebook 02.'
    )


def _list_files(folder) -> Iterator[tuple]:
    for photo in store.find_photos(folder)[0]:
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            facts = os.stat(folder / photo.path)
            yield *photo, facts.st_size, facts.st_mtime_ns


def _examine(folder, row):
    row = dict(row, width=0, height=0, jfif=False, sha256="", hash="", flipped_hash="", problem="")
    try:
        content = (folder / row["photo"]).read_bytes()
    except OSError as error:
        return dict(row, problem=f"cannot be read: {error.strerror}")
    row["sha256"] = hashlib.sha256(content).hexdigest()
    row["jfif"] = content[6:10] == b"JFIF"
    try:
        image = read_image(content)
    except PhotoError as error:
        return dict(row, problem=str(error))
    row["width"], row["height"] = image.size
    # The hash is of 32×32 gray pixels; shrinking once serves both hashes.
    small = image.convert("L").resize((32, 32))
    row["hash"] = str(imagehash.phash(small))
    row["flipped_hash"] = str(imagehash.phash(ImageOps.mirror(small)))
    return row


def _table_path(folder, name):
    # A folder other than the project's own gets tables of its own.
    if folder != paths.photos():
        name += "-" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return paths.tables() / f"{name}.csv"


def _read_table(folder):
    """The table of an earlier check; one without rows if it is missing or damaged."""
    table = tables.read(_table_path(folder, f"photos-v{_VERSION}"), _TYPES)
    if table is None:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _TYPES.items()})
    return table
