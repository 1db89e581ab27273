"""CSV tables that are read back: the first line is a checksum, without which a table is not used.

Every such table can be made anew, so one that is damaged, cut short or renamed is not repaired.
"""

import hashlib
import io
from pathlib import Path

import pandas as pd

from catsdogs import files


def write(table: pd.DataFrame, path: Path) -> None:
    """Write `table` to `path` in one step, with a first line that `read` verifies.

    To read it elsewhere: ``pandas.read_csv(path, skiprows=1)``.
    """
    body = table.to_csv(index=False).encode()
    files.keep(path, _first_line(path, len(table), body) + body)


def read(path: Path, types: dict) -> pd.DataFrame | None:
    """The table that `write` wrote to `path`, whose columns have the names and `types` given.

    None where there is none, or one that is not exactly as it was written.
    """
    try:
        first, body = path.read_bytes().split(b"\n", 1)
        table = pd.read_csv(
            io.BytesIO(body), keep_default_na=False, dtype=types, float_precision="round_trip"
        )
    except (OSError, ValueError):
        return None
    whole = first + b"\n" == _first_line(path, len(table), body)
    return table if whole and list(table.columns) == list(types) else None


def write_plain(table: pd.DataFrame, path: Path) -> None:
    """Write a table for people, which is never read back; one with this content is left alone."""
    content = table.to_csv(index=False).encode()
    if not (path.is_file() and path.read_bytes() == content):
        files.keep(path, content)


def _first_line(path, rows, body):
    # With its name: the name says which photos the table is of.
    digest = hashlib.sha256(f"{path.name} {rows}\n".encode() + body).hexdigest()
    return f"# {rows} rows, checksum {digest}\n".encode()
