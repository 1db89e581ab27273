"""Atomic writes and checksums. Standard library and Python 3.9 only, as downloading uses it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, sync: bool = False, same_ending: bool = False
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, it replaces `path` in one step.

    No reader ever sees half a file, and nothing is left behind when the block fails. With `sync`,
    the content is flushed to the disk before the file is renamed, so that a power failure leaves
    the old file or the new one. With `same_ending`, the temporary path has the ending of `path`, by
    which some libraries choose a format. Missing parent folders are made.

    Raises `FileNotFoundError` if the block wrote no file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix if same_ending else ""
    # Two processes, or two threads of one, may write the same file: each has a path of its own.
    partial = path.with_name(
        f".{path.name}.{os.getpid()}-{threading.get_ident():x}.partial{ending}"
    )
    try:
        yield partial
        if sync:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes, sync: bool = False) -> None:
    """Write `content`, text (as UTF-8) or bytes, to `path` in one step; see `replacing`."""
    with replacing(path, sync) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file of any size, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    with open(path, "rb") as file:  # hashlib.file_digest came with Python 3.11
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()
