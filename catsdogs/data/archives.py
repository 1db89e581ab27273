"""Opens zip and tar archives, and folders, as lists of members; trusts nothing in them.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from catsdogs import names
from catsdogs.data.errors import ArchiveError, DamagedError
from catsdogs.text import printable

#: The names of archives that are looked into; a folder of that name takes their place in paths.
ARCHIVE = re.compile(r"(.+)\.(?:zip|tgz|tbz2?|txz|tar(?:\.(?:gz|bz2|xz))?)", re.I | re.S)

#: Photos are compressed already: what grows more than this many times when it is unpacked, and to
#: more than this many bytes, was made to fill a disk.
MAX_GROWTH, ALWAYS_ALLOWED = 100, 100 * 10**6
#: Far more than the headers of a tar archive need, which it is read in one piece for.
_MAX_READ = 16 * 10**6

_UNPACK_IT = "Unpack it with a program that can, and use the folder: zip FOLDER."
_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\b")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma"}
#: Methods of compression in zip archives that Python cannot unpack, or not before version 3.14.
_OTHER_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
}
#: What people take for an archive that can be used, by what it starts with.
_OTHER_KINDS = (
    (rb"Rar!", f"is a RAR archive, not a zip or tar archive. {_UNPACK_IT}"),
    (rb"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive, not a zip or tar archive. {_UNPACK_IT}"),
    (rb"\x28\xb5\x2f\xfd", f"is a Zstandard archive, not a zip or tar archive. {_UNPACK_IT}"),
    (
        rb"\xff\xd8\xff|\x89PNG|GIF8|BM.{4}\0{4}|RIFF.{4}WEBP|II\*\0|MM\0\*|.{4}ftyp",
        "is a photo, not an archive of photos of cats and dogs. "
        "To classify it: catsdogs predict FILE.",
    ),
)


class Member(NamedTuple):
    """A file in an archive or a folder.

    ``path`` is relative, with ``/``. ``file``: where it is, if it is not packed.
    """

    path: str
    size: int
    open: Callable[[], IO[bytes]]
    file: Path | None = None


def megabytes(size: float) -> str:
    """``1234567`` as ``"1.2 MB"``."""
    return f"{size / 10**6:,.1f} MB"


@contextlib.contextmanager
def opened(file: Path, name: str | None = None) -> Iterator[Iterator[Member]]:
    """The members of `file`, a zip or tar archive or a folder, called `name` in messages.

    Raises ArchiveError for a file of any other kind, and for a member that is a link or has an
    absolute path, a drive letter or ``..``: those are no photos, and somebody may mean harm.
    """
    name = name or file.name
    if file.is_dir():
        yield _in_folder(file)
        return
    with open(file, "rb") as stream:
        start = stream.read(512)
    if not start.strip(b"\0"):
        raise DamagedError(f"{name} is empty.")
    with contextlib.ExitStack() as stack:
        if start[:4] not in _ZIP and (stream := _open_tar(file, start, name)):
            yield _in_tar(stack.enter_context(stream), name, file.stat().st_size)
        else:
            yield _in_zip(stack.enter_context(_open_zip(file, start, name)), name)


def read(member: Member, name: str, limit: int) -> Iterator[bytes]:
    """Yield the content of a member, called `name`, in blocks; reading to the end checks it.

    Raises ArchiveError if the member is encrypted, damaged, packed by an unknown method, or larger
    than `limit` bytes.
    """
    if member.size > limit:
        raise ArchiveError(
            f"{name} would unpack to {megabytes(member.size)}; "
            f"at most {megabytes(limit)} was expected."
        )
    try:
        with member.open() as content:
            yield from iter(lambda: content.read(1 << 20), b"")
    except ArchiveError as error:
        raise type(error)(f"{name} {error}") from None
    except Exception as error:
        if not _is_damage(error):
            raise
        raise DamagedError(f"{name} is damaged: its content does not match its checksum.") from None


def check_growth(name: str, packed: float, unpacked: int, limit: float = float("inf")) -> None:
    """Raise ArchiveError if `packed` bytes are not likely to hold `unpacked` bytes of photos.

    `limit`: what is too much in any case.
    """
    limit = min(limit, max(MAX_GROWTH * packed, ALWAYS_ALLOWED))
    if unpacked > limit:
        raise ArchiveError(
            f"{name} would unpack to {megabytes(unpacked)} or more; "
            f"at most {megabytes(limit)} was expected of it."
        )


def _is_damage(error):
    """Whether an exception is about the content of an archive, not about the disk it is on.

    Damage makes zipfile, tarfile and the decompressors raise many things. EINVAL: an impossible
    seek.
    """
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)


def _in_folder(folder):
    start = len(os.path.join(folder, ""))
    for entry in names.walk(folder):
        if entry.is_file():
            path, file = entry.path[start:].replace(os.sep, "/"), Path(entry.path)
            yield Member(path, entry.stat().st_size, lambda file=file: open(file, "rb"), file)


# --- zip ------------------------------------------------------------------------------------------


def _open_zip(file, start, name):
    try:
        return zipfile.ZipFile(file)
    except Exception as error:
        if not _is_damage(error):
            raise
        if "multiple disks" in str(error) or start.startswith(b"PK\x07\x08PK"):
            _refuse_part(name)
        if isinstance(error, NotImplementedError):
            raise ArchiveError(
                f"{name} is of a newer kind than Python can unpack ({error}). {_UNPACK_IT}"
            ) from None
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", start, re.I):
        raise DamagedError(f"{name} is a web page, not a zip archive.")
    if start.startswith(b"PK"):
        size = megabytes(file.stat().st_size)
        raise DamagedError(
            f"{name} is cut short or damaged (after {size}, the end of the archive is missing)."
        )
    for pattern, found in _OTHER_KINDS:
        if re.match(pattern, start, re.S):
            raise ArchiveError(f"{name} {found}")
    if any(map(start.startswith, _COMPRESSED)):
        raise DamagedError(f"{name} is cut short or damaged, or is not a tar archive inside.")
    raise ArchiveError(
        f"{name} is not a zip archive: it starts with {printable(ascii(start[:12])[1:])}; a zip or "
        "tar archive, or a folder, was expected."
    )


def _in_zip(archive, name):
    for info in archive.infolist():
        _refuse_unsafe(info.filename, name)
        if 0 < info.volume < 0xFFFF:
            _refuse_part(name)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            _refuse("link", info.filename, name)
        if not info.filename.endswith(("/", "\\")):
            path = _plain(info.filename)
            yield Member(path, info.file_size, lambda info=info: _open_member(archive, info))


def _open_member(archive, info):
    if info.flag_bits & 1:
        raise ArchiveError(
            "is encrypted; an archive without a password was expected. Unpack it with its "
            "password, and use the folder: zip FOLDER."
        )
    try:
        return archive.open(info)
    except (NotImplementedError, RuntimeError) as error:
        known = _OTHER_METHODS.get(info.compress_type, error)
        raise ArchiveError(
            f"cannot be unpacked by Python: compression method {info.compress_type}, {known}. "
            f"{_UNPACK_IT}"
        ) from None


# --- tar ------------------------------------------------------------------------------------------


class _Bounded:
    """A file that is not read in enormous pieces, whatever the headers in it claim."""

    def __init__(self, file):
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size):
        if size > _MAX_READ:
            raise DamagedError
        return self.file.read(size)


def _open_tar(file, start, name):
    """The unpacked content of `file` if it is a tar archive, compressed or not; None otherwise."""
    module = next((_COMPRESSED[magic] for magic in _COMPRESSED if start.startswith(magic)), "io")
    try:
        stream = importlib.import_module(module).open(file, "rb")
    except ImportError:
        raise ArchiveError(f"{name} needs {module}, which this Python lacks. {_UNPACK_IT}") from None
    try:
        tarfile.open(fileobj=_Bounded(stream), mode="r:")
        return stream
    except Exception as error:
        stream.close()
        if not _is_damage(error):
            raise
        return None


def _in_tar(stream, name, packed):
    stream.seek(0)
    archive, total = tarfile.open(fileobj=_Bounded(stream), mode="r:"), 0
    try:
        for info in archive:
            total += tarfile.BLOCKSIZE + info.size
            check_growth(name, packed, total)
            _refuse_unsafe(info.name, name)
            if not info.isreg() and not info.isdir():
                _refuse("link", info.name, name)
            if info.isreg():
                path = _plain(info.name)
                yield Member(path, info.size, lambda info=info: archive.extractfile(info))
        # tarfile takes any damage for the end, which is a block of zeros. What comes after it is
        # read for the sake of the checksum of a compressed archive.
        stream.seek(archive.offset)
        if (end := stream.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            raise DamagedError
        while end := stream.read(1 << 20):
            total += len(end)
            check_growth(name, packed, total)
    except Exception as error:
        if not isinstance(error, DamagedError) and isinstance(error, ArchiveError):
            raise
        if not _is_damage(error):
            raise
        raise DamagedError(f"{name} is cut short or damaged.") from None


# --- both -----------------------------------------------------------------------------------------


def _plain(path):
    """`path` with ``/``, and without a ``./`` at its start."""
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def _refuse_unsafe(path, name):
    path = path.replace("\\", "/")
    if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        _refuse("unsafe path", path, name)


def _refuse_part(name):
    raise ArchiveError(f"{name} is one part of a split archive. {_UNPACK_IT}") from None


def _refuse(what, path, name):
    raise ArchiveError(
        f"{name} holds the {what} {ascii(path)}, so nothing was unpacked; "
        "only regular files with plain relative paths were expected."
    )
