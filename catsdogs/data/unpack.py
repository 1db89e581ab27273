"""Unpacks the photos of an archive, or of the archives in it, or copies those of a folder.

Finds cats and dogs by the names of folders and files (see `catsdogs.names`), whatever lies around
them, and Kaggle's unlabelled ``test/N.jpg``. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from catsdogs import CLASS_NAMES, files, names
from catsdogs.data import archives, progress
from catsdogs.data.archives import Member, megabytes
from catsdogs.data.errors import ArchiveError
from catsdogs.text import counted, printable

# Limits in bytes, far above the real sizes (a photo: 0.5 MB, train.zip: 0.6 GB, in all: 1.2 GB) ...
MAX_PHOTO = 50 * 10**6
MAX_NESTED = 4 * 10**9
MAX_TOTAL = 10 * 10**9
# ... and for archives in archives: how deep, and how many in all.
MAX_DEPTH = 5
MAX_ARCHIVES = 100


class Photo(NamedTuple):
    """A photo to unpack: ``folder`` is PetImages/Cat, PetImages/Dog or test, ``path`` its path.

    ``path`` goes through nested archives as if they were folders; ``archive`` is for messages.
    """

    folder: str
    path: str
    archive: str
    member: Member


def unpack(file: Path, target: Path, test_only: bool = False) -> None:
    """Unpack the photos of `file` to `target`/PetImages/{Cat,Dog} and `target`/test.

    A photo with a number is called ``N.jpg`` there; others keep their name. Of photos that would
    get the same name, identical ones are kept once, and others get ``-2``, ``-3`` and so on.
    `test_only` leaves the labelled photos out. What is left out is counted and said. `file` may
    also be a folder; it is never changed.

    Raises ArchiveError for an archive that is not as expected (see `catsdogs.data.archives`) and
    OSError if the disk is full.
    """
    left_out = LeftOut()
    with contextlib.ExitStack() as stack:
        photos = list(find_photos(file, target, stack, left_out))
        if test_only:
            photos = [photo for photo in photos if photo.folder == "test"]
        check_photos(photos, file, test_only, left_out)
        need_room(target, sum(photo.member.size for photo in photos), len(photos))
        for folder in {photo.folder for photo in photos}:
            (target / folder).mkdir(parents=True)
        chosen = new_names(photos)
        with progress.bar("Unpacking", len(photos)) as advance:
            for photo, name in zip(photos, chosen):
                described = f"{photo.folder}/{name} in {photo.archive}"
                content = b"".join(archives.read(photo.member, described, MAX_PHOTO))
                (target / photo.folder / name).write_bytes(content)
                advance(1)
    for copy in target.glob("nested-*"):
        copy.unlink()
    left_out.copies = remove_copies(photos, chosen, target, file.name)
    left_out.say(file.name)


class LeftOut:
    """What is not unpacked: how many files of which kind, with an example of each."""

    def __init__(self):
        self.photos, self.others, self.copies = [], [], 0

    def __str__(self):
        parts = []
        if self.photos:
            found, example = counted(len(self.photos), "photo"), printable(self.photos[0])
            parts.append(f"{found} of unknown class, such as {example}")
        if self.others:
            found, example = counted(len(self.others), "other file"), printable(self.others[0])
            parts.append(f"{found}, such as {example}")
        if self.copies:
            parts.append(f"{counted(self.copies, 'duplicate')} with the same name and content")
        return "; ".join(parts)

    def say(self, name: str) -> None:
        """Tell what was left out of the archive `name`, if anything was."""
        if text := str(self):
            progress.say(f"Left out of {printable(name)}: {text}.")


def find_photos(
    file: Path, target: Path, stack: contextlib.ExitStack, left_out: LeftOut
) -> Iterator[Photo]:
    """Yield the photos of `file` and of the archives in it, in their order there.

    Nested archives are copied to `target` first. They stay open until `stack` is closed.
    """
    packed = math.inf if file.is_dir() else file.stat().st_size
    waiting, total, copies = [(file, file.name, "", 1)], 0, 0
    for archive, name, prefix, depth in waiting:
        for member in stack.enter_context(archives.opened(archive, name)):
            path = prefix + member.path
            nested = archives.ARCHIVE.fullmatch(member.path)
            if names.is_hidden(path):
                continue
            if names.is_photo(path) or (nested and member.file is None):
                total += member.size
            if nested and depth < MAX_DEPTH and len(waiting) <= MAX_ARCHIVES:
                inside = f"{PurePosixPath(path).name} in {name}"
                copy = member.file
                if copy is None:
                    copies += 1
                    copy = target / f"nested-{copies}"
                    archives.check_growth(file.name, packed, total, MAX_TOTAL)
                    need_room(target, min(member.size, MAX_NESTED), 1)
                    with open(copy, "xb") as stream:
                        for block in archives.read(member, inside, MAX_NESTED):
                            stream.write(block)
                waiting.append((copy, inside, f"{prefix}{nested[1]}/", depth + 1))
            elif not names.is_photo(path):
                left_out.others.append(path)
            elif (label := names.label(path)) is not None:
                yield Photo(f"PetImages/{CLASS_NAMES[label].capitalize()}", path, name, member)
            elif names.is_unlabelled(path):
                yield Photo("test", path, name, member)
            else:
                left_out.photos.append(path)
    archives.check_growth(file.name, packed, total, MAX_TOTAL)


def check_photos(photos: list[Photo], file: Path, test_only: bool, left_out: LeftOut) -> None:
    """Raise ArchiveError if a class is missing, or all photos together are too large."""
    have = Counter(photo.folder for photo in photos)
    others = f" Left out: {left_out}." if str(left_out) else ""
    if test_only and not photos:
        raise ArchiveError(
            f"{file.name} holds no unlabelled photos; test/N.jpg was expected.{others}"
        )
    if not test_only and not (have["PetImages/Cat"] and have["PetImages/Dog"]):
        raise ArchiveError(
            f"{file.name} holds {have['PetImages/Cat']:,} photos of cats and "
            f"{have['PetImages/Dog']:,} of dogs; some of each were expected, in folders named "
            f"cats and dogs, or with names such as cat.1.jpg and dog.1.jpg.{others}"
        )


def new_names(photos: list[Photo]) -> list[str]:
    """The name of each photo in its folder: no two in a folder have the same, also in lower case.

    It depends on the photos' paths, not on their order.
    """
    taken: set[tuple[str, str]] = set()
    times: Counter[tuple[str, str]] = Counter()
    found = [""] * len(photos)
    for index in sorted(range(len(photos)), key=lambda index: photos[index].path):
        folder, wanted = photos[index].folder, PurePosixPath(new_name(photos[index].path))
        name = str(wanted)
        while (folder, name.lower()) in taken:
            times[folder, str(wanted).lower()] += 1
            name = f"{wanted.stem}-{times[folder, str(wanted).lower()] + 1}{wanted.suffix}"
        taken.add((folder, name.lower()))
        found[index] = name
    return found


def new_name(path: str) -> str:
    """The name under which the photo `path` is stored: ``N.jpg``, or its own if it has no number.

    What some file system refuses in a name is replaced: only this part of a member's path is ever
    used as one.
    """
    stem, ending = PurePosixPath(path).stem, PurePosixPath(path).suffix.lower()
    number = names.number(path)
    if number is not None:
        return f"{number}{ending}"
    stem = unicodedata.normalize("NFC", stem.encode("utf-8", "replace").decode())
    stem = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", stem).strip()
    return (stem.encode()[:200].decode("utf-8", "ignore") or "photo") + ending


def remove_copies(photos: list[Photo], chosen: list[str], target: Path, name: str) -> int:
    """Remove photos that are identical to another that wanted the same name; returns how many.

    Raises ArchiveError if two different unlabelled photos have one number, which is all that a
    submission knows of them.
    """
    rivals: dict[tuple[str, str], list[Path]] = {}
    for photo, stored in sorted(zip(photos, chosen), key=lambda pair: pair[0].path):
        same_name = rivals.setdefault((photo.folder, new_name(photo.path).lower()), [])
        same_name.append(target / photo.folder / stored)
    removed = 0
    for (folder, wanted), same_name in rivals.items():
        contents: set[str] = set()
        for file in same_name if len(same_name) > 1 else ():  # checksums take time
            if (content := files.sha256(file)) in contents:
                file.unlink()
                removed += 1
            contents.add(content)
        if folder == "test" and len(contents) > 1:
            raise ArchiveError(
                f"{name} holds different photos test/{wanted}; one of each was expected."
            )
    return removed


def need_room(folder: Path, size: int, count: int) -> None:
    """Raise OSError(ENOSPC) unless `size` bytes in `count` files fit on the disk of `folder`."""
    needed, free = size + 4096 * count, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{megabytes(needed)} are needed and {megabytes(free)} are free"
        )
