"""Atomic writes, checksums, JSON. Standard library and Python 3.9 only, as downloading uses it."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from catsdogs import paths
from catsdogs.text import Message

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: What the operating system calls a full disk, a full quota, and a limit on the size of files.
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
#: What it calls a place that may not be written to.
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

#: The hidden folder that a file is written in, and the hidden file that earlier versions wrote.
_PARTIAL = re.compile(r"\..+\.\w{8}\.partial")
_EARLIER = re.compile(r"\..+\.([0-9]+)-[0-9a-f]+\.partial(\.\w+)?")


class DiskFullError(Message, OSError):
    """The disk is full; the message says which, and that nothing was left half-written."""

    def __str__(self):
        return self.strerror


class DamagedFileError(Message, ValueError):
    """A file does not hold what it should; the message names it and says what was found."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path of the same name; if the block succeeds, it replaces `path`.

    It does so in one step: no reader ever sees half a file, and nothing is left behind when the
    block fails. The temporary path is in a hidden folder beside `path`; one that a killed process
    left is removed by the next write there. With `sync`, the content is flushed to the disk before
    the file is renamed, so that a power failure leaves the old file or the new one. Missing parent
    folders are made.

    Raises `FileNotFoundError` if the block wrote no file, and `DiskFullError` if there is no room.
    """
    path = Path(path)
    with full_disk_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_partials(path.parent)
        # Two processes, or two threads of one, may write the same file: each has its own folder.
        with _locked_folder(path) as folder:
            yield folder / path.name
            if sync:
                with open(folder / path.name, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(folder / path.name, path)


def write(path: str | os.PathLike, content: str | bytes, sync: bool = False) -> None:
    """Write `content`, text (as UTF-8) or bytes, to `path` in one step; see `replacing`."""
    with replacing(path, sync) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def keep(path: str | os.PathLike, content: str | bytes) -> None:
    """As `write`, for what can be made anew: where it cannot be written, do without it.

    A message says so, once for each folder: most often the disk is full or read-only.
    """
    path = Path(path)
    try:
        write(path, content, sync=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        _say_once(
            f"{paths.shown(path.parent)} cannot be written to ({reason}): "
            "what is computed for it is not kept, and will be computed again."
        )


def reserve(file, size: int) -> None:
    """Reserve room for `size` bytes in the open `file`; raises OSError where there is not as much.

    So a full disk is found before the work is done rather than after half of it.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        os.posix_fallocate(file.fileno(), 0, size)


def clear_partials(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`: what no living one has locked."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for name in names:
        if _PARTIAL.fullmatch(name):
            with contextlib.suppress(OSError), open(folder / name / "lock", "rb+") as lock:
                _lock(lock)
                _remove(folder / name)
        elif (earlier := _EARLIER.fullmatch(name)) and fcntl and not _runs(int(earlier[1])):
            with contextlib.suppress(OSError):
                (folder / name).unlink()


@contextlib.contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn an error that means that there is no room for `path` into a `DiskFullError`."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number not in DISK_FULL and os.strerror(errno.ENOSPC) not in str(error):
            raise
        reason = os.strerror(number if number in DISK_FULL else errno.ENOSPC)
        raise DiskFullError(
            errno.ENOSPC,
            f"{paths.shown(path)} could not be written: {reason}. "
            "Nothing was left half-written: make room, then run this again.",
        ) from error


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file of any size, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    with open(path, "rb") as file:  # hashlib.file_digest came with Python 3.11
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def read_json(path: str | os.PathLike) -> dict:
    """The JSON object in the file at `path`.

    Raises OSError where it cannot be read, and `DamagedFileError` where it holds anything else.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested without end
        raise DamagedFileError(f"{paths.shown(Path(path))} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedFileError(
            f"{paths.shown(Path(path))} holds a JSON {type(content).__name__}: expected an object"
        )
    return content


@contextlib.contextmanager
def _locked_folder(path):
    """A hidden folder beside `path` for this block alone, locked until the block ends.

    The lock, not the process's number, says that it is in use: it ends with the process, however
    that ends, it holds between containers and machines, and numbers are used again.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            lock = open(folder / "lock", "wb")
        except FileNotFoundError:  # another process took the folder for a leftover ...
            continue
        except OSError:
            _remove(folder)
            raise
        try:
            _lock(lock)
        except BlockingIOError:
            lock.close()
            continue
        except OSError:  # some network file systems have no locks: nothing is cleared there
            break
        if (folder / "lock").exists():
            break
        lock.close()  # ... before it was locked
    try:
        yield folder
    finally:
        lock.close()
        _remove(folder)


def _remove(folder):
    """Remove `folder` and the files in it; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            (folder / name).unlink()
        folder.rmdir()


def _lock(file):
    """Lock an open file without waiting; raises BlockingIOError if another has locked it."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks")
    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


@functools.cache
def _say_once(text):
    print(text)


def _runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
