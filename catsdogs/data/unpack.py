"""Unpacks the photos of a zip archive, and trusts nothing in it: names, links, sizes, checksums.

Knows three layouts: Microsoft's ``PetImages/Cat/N.jpg``, the ``cat.N.jpg`` and ``test/N.jpg`` of
Kaggle's archives, and Kaggle's outer archive of those. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from catsdogs.data import progress
from catsdogs.data.errors import ArchiveError

# A member's name is only matched, never used as a path: Cat/17.jpg and cat.17.jpg are both photo
# 17 of class Cat.
LABELLED = re.compile(r"(?:.*/)?(cat|dog)[/.]([0-9]{1,9})\.jpe?g", re.IGNORECASE | re.DOTALL)
UNLABELLED = re.compile(r"(?:.*/)?test1?/([0-9]{1,9})\.jpe?g", re.IGNORECASE | re.DOTALL)
NESTED = re.compile(r"(?:.*/)?(train|test1?)\.zip", re.IGNORECASE | re.DOTALL)

# Limits in bytes, far above the real sizes (a photo: 0.5 MB, train.zip: 0.6 GB, in all: 1.2 GB).
MAX_PHOTO = 50 * 10**6
MAX_NESTED = 4 * 10**9
MAX_TOTAL = 10 * 10**9


def megabytes(size: int) -> str:
    """``1234567`` as ``"1.2 MB"``."""
    return f"{size / 10**6:,.1f} MB"


def open_zip(file: Path, name: str | None = None) -> zipfile.ZipFile:
    """Open `file` (called `name` in messages) after checking that none of its members is unsafe.

    Raises ArchiveError if it is not a complete zip archive, or if any member is a link or has an
    absolute path, a drive letter or ``..``: neither Microsoft nor Kaggle made such an archive.
    """
    name = name or file.name
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # damage makes zipfile raise many things beside BadZipFile
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an impossible seek
            raise
        with open(file, "rb") as stream:
            start = stream.read(512)
        if not start:
            found = "is empty"
        elif re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
            found = "is a web page, not a zip archive"
        elif start.startswith(b"PK"):
            size = megabytes(file.stat().st_size)
            found = f"is cut short or damaged (after {size}, the end of the archive is missing)"
        else:
            found = "is not a zip archive"
        raise ArchiveError(f"{name} {found}.") from None
    try:
        refuse_unsafe(archive, name)
    except ArchiveError:
        archive.close()
        raise
    return archive


def refuse_unsafe(archive: zipfile.ZipFile, name: str) -> None:
    """Raise ArchiveError if a member of `archive` could be written outside its folder."""
    for info in archive.infolist():
        path = info.filename.replace("\\", "/")
        unsafe = ""
        if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
            unsafe = "unsafe path"
        elif stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            unsafe = "link"
        if unsafe:
            raise ArchiveError(
                f"{name} holds the {unsafe} {ascii(info.filename)}, so nothing was unpacked; "
                "only regular files with plain relative paths were expected."
            )


def read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, limit: int
) -> Iterator[bytes]:
    """Yield the content of a member in blocks; reading to the end checks its CRC.

    Raises ArchiveError if the member is encrypted, damaged, or larger than `limit` bytes.
    """
    if info.flag_bits & 1:
        raise ArchiveError(f"{name} is encrypted; an archive without a password was expected.")
    if info.file_size > limit:
        raise ArchiveError(
            f"{name} would unpack to {megabytes(info.file_size)}; "
            f"at most {megabytes(limit)} was expected."
        )
    try:
        with archive.open(info) as member:
            yield from iter(lambda: member.read(1 << 20), b"")
    except Exception as error:  # as above
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ArchiveError(f"{name} is damaged: its content does not match its checksum.") from None


def find_photos(archive: zipfile.ZipFile) -> list[tuple[str, int, zipfile.ZipInfo]]:
    """Each photo as (folder, number, member); folder: PetImages/Cat, PetImages/Dog or test."""
    found = []
    for info in archive.infolist():
        path = info.filename.replace("\\", "/")
        labelled, unlabelled = LABELLED.fullmatch(path), UNLABELLED.fullmatch(path)
        if labelled:
            found.append((f"PetImages/{labelled[1].capitalize()}", int(labelled[2]), info))
        elif unlabelled:
            found.append(("test", int(unlabelled[1]), info))
    return found


def need_room(folder: Path, size: int, files: int) -> None:
    """Raise OSError(ENOSPC) unless `size` bytes in `files` files fit on the disk of `folder`."""
    needed, free = size + 4096 * files, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{megabytes(needed)} are needed and {megabytes(free)} are free"
        )


def unpack(file: Path, target: Path, test_only: bool = False) -> None:
    """Unpack the photos of `file` into `target`/PetImages/{Cat,Dog}/N.jpg and `target`/test/N.jpg.

    `test_only` leaves the labelled photos out. Raises ArchiveError for an archive that is not as
    expected (see `open_zip`, `read_member`, `check_photos`) and OSError if the disk is full.
    """
    photos, opened = [], []
    try:
        outer = open_zip(file)
        opened.append(outer)
        photos += [(outer, file.name, *photo) for photo in find_photos(outer)]
        for info in outer.infolist():
            nested = NESTED.fullmatch(info.filename.replace("\\", "/"))
            if not nested or (test_only and nested[1].lower() == "train"):
                continue
            name = f"{nested[0].split('/')[-1]} in {file.name}"
            need_room(target, min(info.file_size, MAX_NESTED), 1)
            copy = target / f"nested-{len(opened)}.zip"
            with open(copy, "xb") as stream:
                for block in read_member(outer, info, name, MAX_NESTED):
                    stream.write(block)
            inner = open_zip(copy, name)
            opened.append(inner)
            photos += [(inner, name, *photo) for photo in find_photos(inner)]

        if test_only:
            photos = [photo for photo in photos if photo[2] == "test"]
        check_photos(photos, file.name, test_only)
        need_room(target, sum(info.file_size for *_, info in photos), len(photos))
        for folder in {folder for _, _, folder, _, _ in photos}:
            (target / folder).mkdir(parents=True)
        with progress.bar("Unpacking", len(photos)) as advance:
            for archive, name, folder, number, info in photos:
                member = f"{folder}/{number}.jpg in {name}"
                content = b"".join(read_member(archive, info, member, MAX_PHOTO))
                (target / folder / f"{number}.jpg").write_bytes(content)
                advance(1)
    finally:
        for archive in opened:
            archive.close()
    for copy in target.glob("nested-*.zip"):
        copy.unlink()


def check_photos(photos: list[tuple], name: str, test_only: bool) -> None:
    """Raise ArchiveError if a class is missing, a photo comes twice, or the total is too large."""
    have = Counter(folder for _, _, folder, _, _ in photos)
    if test_only and not photos:
        raise ArchiveError(f"{name} holds no unlabelled photos; test/N.jpg was expected.")
    if not test_only and not (have["PetImages/Cat"] and have["PetImages/Dog"]):
        raise ArchiveError(
            f"{name} holds {have['PetImages/Cat']:,} photos of cats and "
            f"{have['PetImages/Dog']:,} of dogs; PetImages/{{Cat,Dog}}/N.jpg, or train.zip with "
            "cat.N.jpg and dog.N.jpg, was expected."
        )
    numbered = Counter((folder, number) for _, _, folder, number, _ in photos)
    [((folder, number), times)] = numbered.most_common(1)
    if times > 1:
        raise ArchiveError(
            f"{name} holds {folder}/{number}.jpg {times} times; each photo was expected once."
        )
    total = sum(info.file_size for *_, info in photos)
    if total > MAX_TOTAL:
        raise ArchiveError(
            f"{name} would unpack to {megabytes(total)}; "
            f"at most {megabytes(MAX_TOTAL)} was expected."
        )
