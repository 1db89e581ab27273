"""Check every photo once: decode it whole, and write a table of what was found."""

import hashlib
import os
from pathlib import Path

import imagehash
import pandas as pd
from PIL import ImageOps
from tqdm.auto import tqdm

from catsdogs import CLASS_NAMES, files, paths
from catsdogs.data.decode import PhotoError, read_image
from catsdogs.parallel import map_in_threads

#: Raise when a column's meaning changes, so that tables of an older kind are made anew.
_VERSION = 2
_FILE = ["photo", "label", "number", "bytes", "modified"]  # what a folder says of a file
_FOUND = [
    "width",
    "height",
    "jfif",
    "sha256",
    "hash",
    "flipped_hash",
    "problem",
]  # what reading it says
_COLUMNS = _FILE + _FOUND
_TYPES = {
    "photo": str,
    "bytes": "int64",
    "modified": "int64",
    "width": "int64",
    "height": "int64",
    "jfif": bool,
    "sha256": str,
    "hash": str,
    "flipped_hash": str,
    "problem": str,
}


def check_photos(folder: Path | None = None, *, progress: bool = True) -> pd.DataFrame:
    """Check the photos below `folder` (by default ``data/PetImages``) and return a table of them.

    One row per file named ``Cat/N.jpg`` or ``Dog/N.jpg``, ordered by class and number:

    - ``photo``: its path below `folder`; ``label``: 0 for a cat, 1 for a dog; ``number``: N
    - ``bytes``, ``modified`` (ns since 1970), ``width`` and ``height`` (pixels, upright)
    - ``jfif``: whether a JFIF header starts it (many good photos have none)
    - ``sha256`` of the file; ``hash`` and ``flipped_hash``: the 64-bit perceptual hash (DCT) of the
      photo and of its horizontal flip, as 16 hexadecimal digits
    - ``problem``: why it cannot be used, or empty for a good photo

    Files are decoded on all cores. The table is kept in ``data/tables/photos.csv`` and only files that
    are new or changed are decoded again. Files that cannot be used are listed in
    ``data/tables/quarantine.csv``; they stay where they are and are never trained on.

    Raises `FileNotFoundError` where there are no photos.
    """
    folder = Path(folder or paths.photos())
    found = pd.DataFrame(_files(folder), columns=_FILE)
    if found.empty:
        raise FileNotFoundError(
            f"no photos in {paths.shown(folder)}: expected Cat/N.jpg and Dog/N.jpg. Run ./download_data.sh first."
        )
    known = _known(folder)
    # A file that has the size and the time of change of an earlier check is not decoded again.
    table = found.merge(known, how="left", on=["photo", "bytes", "modified"], indicator="known")
    todo = found[(table.pop("known") == "left_only").to_numpy()]
    if len(todo):
        examined = map_in_threads(
            lambda row: _examine(folder, row), todo.to_dict("records"), chunk=8
        )
        rows = list(
            tqdm(
                examined,
                total=len(todo),
                unit=" photos",
                desc="Checking",
                disable=not progress,
                mininterval=0.5,
            )
        )
        fresh = pd.DataFrame(rows, columns=_COLUMNS)
        table = (
            pd.concat([table.drop(index=todo.index), fresh], ignore_index=True)
            if len(fresh) < len(table)
            else fresh
        )
    table = table[_COLUMNS].sort_values(["label", "number"], ignore_index=True)
    table = table.astype({name: kind for name, kind in _TYPES.items() if kind is not str})
    if len(todo) or len(known) != len(found):
        _write(folder, table)
    return table


def quarantine(table: pd.DataFrame) -> pd.DataFrame:
    """The photos of `check_photos`' table that cannot be used: columns ``photo``, ``bytes``, ``problem``."""
    return table.loc[table.problem != "", ["photo", "bytes", "problem"]].reset_index(drop=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, in one step; a file that is just so already is left alone."""
    content = table.to_csv(index=False)
    if not (path.exists() and path.read_text(encoding="utf-8") == content):
        files.write(path, content)


def _files(folder):
    for label, name in enumerate(CLASS_NAMES):
        directory = folder / name.capitalize()
        if not directory.is_dir():
            continue
        for entry in os.scandir(directory):
            stem, dot, ending = entry.name.rpartition(".")
            if ending.lower() == "jpg" and stem.isascii() and stem.isdigit() and entry.is_file():
                facts = entry.stat()
                yield {
                    "photo": f"{directory.name}/{entry.name}",
                    "label": label,
                    "number": int(stem),
                    "bytes": facts.st_size,
                    "modified": facts.st_mtime_ns,
                }


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
    # The hash is of 32×32 grey pixels; shrinking once serves both hashes.
    small = image.convert("L").resize((32, 32))
    row["hash"] = str(imagehash.phash(small))
    row["flipped_hash"] = str(imagehash.phash(ImageOps.mirror(small)))
    return row


def _table_path(folder):
    # Another folder than the project's own gets tables of its own.
    name = (
        ""
        if folder == paths.photos()
        else "-" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    )
    return paths.tables() / f"photos-v{_VERSION}{name}.csv"


def _known(folder):
    """The rows of an earlier check; none where the table is missing or unreadable."""
    try:
        table = pd.read_csv(
            _table_path(folder), usecols=list(_TYPES), keep_default_na=False, dtype=_TYPES
        )
        return table.drop_duplicates(["photo", "bytes", "modified"])
    except (OSError, ValueError):
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _TYPES.items()})


def _write(folder, table):
    write_table(table, _table_path(folder))
    write_table(quarantine(table), paths.tables() / "quarantine.csv")
