"""Check every photo once: decode it whole, and write a table of what was found."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import pandas as pd
from PIL import ImageOps
from tqdm.auto import tqdm

from catsdogs import CLASS_NAMES, paths
from catsdogs.decode import PhotoError, read_image

#: Raise when a column's meaning changes, so that tables of an older kind are made anew.
_VERSION = 1
_COLUMNS = ["photo", "label", "number", "bytes", "modified", "width", "height", "jfif", "sha256", "hash",
            "mirrored_hash", "problem"]


def check_photos(folder: Path | None = None, *, progress: bool = True) -> pd.DataFrame:
    """Check the photos below `folder` (by default ``data/PetImages``) and return a table of them.

    A row a file named ``Cat/N.jpg`` or ``Dog/N.jpg``, ordered by class and number:

    - ``photo``: its path below `folder`; ``label``: 0 for a cat, 1 for a dog; ``number``: N
    - ``bytes``, ``modified`` (ns since 1970), ``width`` and ``height`` (pixels, upright)
    - ``jfif``: whether a JFIF header starts it (many good photos have none)
    - ``sha256`` of the file; ``hash`` and ``mirrored_hash``: the 64-bit perceptual hash (DCT) of the
      photo and of its mirror image, as 16 hexadecimal digits
    - ``problem``: why it cannot be used, or empty for a good photo

    Files are decoded on all cores. The table is kept in ``data/tables/photos.csv`` and only files that
    are new or changed are decoded again. Files that cannot be used are listed in
    ``data/tables/quarantine.csv``; they stay where they are and are never trained on.

    Raises `FileNotFoundError` where there are no photos.
    """
    folder = Path(folder or paths.photos())
    files = list(_files(folder))
    if not files:
        raise FileNotFoundError(
            f"no photos in {paths.shown(folder)}: expected Cat/N.jpg and Dog/N.jpg. Run ./download_data.sh first."
        )
    known = _known(folder)
    todo = [row for row in files if (row["photo"], row["bytes"], row["modified"]) not in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(tqdm(pool.map(lambda row: _examine(folder, row), todo), total=len(todo), unit=" photos",
                          desc="Checking", disable=not progress or not todo, mininterval=0.5))
    rows = found + [known[key] for row in files if (key := (row["photo"], row["bytes"], row["modified"])) in known]
    table = pd.DataFrame(rows, columns=_COLUMNS).sort_values(["label", "number"], ignore_index=True)
    if todo or len(known) != len(files):
        _write(folder, table)
    return table


def quarantine(table: pd.DataFrame) -> pd.DataFrame:
    """The photos of `check_photos`' table that cannot be used: columns ``photo``, ``bytes``, ``problem``."""
    return table.loc[table.problem != "", ["photo", "bytes", "problem"]].reset_index(drop=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_csv(partial, index=False)
    os.replace(partial, path)


def _files(folder):
    for label, name in enumerate(CLASS_NAMES):
        directory = folder / name.capitalize()
        if not directory.is_dir():
            continue
        for entry in os.scandir(directory):
            stem, dot, ending = entry.name.rpartition(".")
            if ending.lower() == "jpg" and stem.isascii() and stem.isdigit() and entry.is_file():
                facts = entry.stat()
                yield {"photo": f"{directory.name}/{entry.name}", "label": label, "number": int(stem),
                       "bytes": facts.st_size, "modified": facts.st_mtime_ns}


def _examine(folder, row):
    row = dict(row, width=0, height=0, jfif=False, sha256="", hash="", mirrored_hash="", problem="")
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
    row["mirrored_hash"] = str(imagehash.phash(ImageOps.mirror(small)))
    return row


def _table_path(folder):
    # Another folder than the project's own gets tables of its own.
    name = "" if folder == paths.photos() else "-" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return paths.tables() / f"photos-v{_VERSION}{name}.csv"


def _known(folder):
    """Rows of an earlier check by (photo, bytes, modified); none where the table is missing or unreadable."""
    try:
        table = pd.read_csv(_table_path(folder), keep_default_na=False, dtype={"hash": str, "mirrored_hash": str})
        rows = table[_COLUMNS].to_dict("records")
        return {(row["photo"], row["bytes"], row["modified"]): row for row in rows}
    except (OSError, ValueError, KeyError):
        return {}


def _write(folder, table):
    write_table(table, _table_path(folder))
    write_table(quarantine(table), paths.tables() / "quarantine.csv")
