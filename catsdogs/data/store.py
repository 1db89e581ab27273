"""The state of ``data/``: which photos are there, their record, and how new ones replace them.

New photos are unpacked in ``data/.unpacking``. Once that folder is complete, record included, one
rename to ``data/.unpacked`` makes it final; what is left to do, moving its parts to their places,
is done by the next run (`finish`) if this one is killed. So whenever a run is killed, it leaves
the old photos, the new ones, or a state that the next run turns into the new ones.

Standard library only, Python 3.9 or newer: downloading needs it before anything is installed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from catsdogs import CLASS_NAMES, files, names, paths
from catsdogs.data.errors import DownloadError
from catsdogs.text import counted, printable

CLASSES = tuple(name.capitalize() for name in CLASS_NAMES)
#: What no table can hold: control characters, and bytes that are no text.
_ODD = re.compile("[\x00-\x1f\ud800-\udfff]")

#: The comment near the start of each synthetic photo: it stays with the photo wherever that goes.
SYNTHETIC_MARK = b"catsdogs: synthetic, not a photograph"

#: What `needed` finds missing.
NOTHING, EVERYTHING, UNLABELLED = "nothing", "everything", "unlabelled photos"


def staging() -> Path:
    """Where photos are unpacked; worthless once the run that made it has ended."""
    return paths.data() / ".unpacking"


def unpacked() -> Path:
    """Complete photos on their way to their places."""
    return paths.data() / ".unpacked"


class Photo(NamedTuple):
    """A photo's file: its class, its number (-1 without one) and its path below a folder."""

    label: int
    number: int
    path: str


def find_photos(folder: Path) -> tuple[list[Photo], list[str]]:
    """The photos below `folder`, in order of class, number and path, and what else is there.

    `catsdogs.names` says what a photo is. What else is there is a list of paths without hidden
    files: files that are no photos, photos whose folder and name do not tell their class, and
    names that are no text. All paths are relative, with ``/``.
    """
    photos, others = [], []
    start = len(os.path.join(folder, ""))
    for entry in names.walk(folder) if folder.is_dir() else ():
        path = entry.path[start:].replace(os.sep, "/")
        label = names.label(path) if names.is_photo(path) and entry.is_file() else None
        if label is None or _ODD.search(path):
            others.append(path)
        else:
            number = names.number(path)
            photos.append(Photo(label, -1 if number is None else number, path))
    return sorted(photos), others


def count_unlabelled(folder: Path) -> int:
    """The number of photos in `folder`; 0 if there is no such folder."""
    return sum(map(names.is_photo, os.listdir(folder))) if folder.is_dir() else 0


def counts(folder: Path) -> dict[str, int]:
    """The number of photos per class in `folder`."""
    labels = [photo.label for photo in find_photos(folder)[0]]
    return {name: labels.count(label) for label, name in enumerate(CLASSES)}


def in_words(photos: dict[str, int]) -> str:
    """``{"Cat": 12500, "Dog": 12500}`` as ``"12,500 cats and 12,500 dogs"``."""
    return f"{photos['Cat']:,} cats and {photos['Dog']:,} dogs"


def digest(folder: Path) -> str:
    """SHA-256 of all photos of both classes, in order of class and number."""
    total = hashlib.sha256()
    for photo in find_photos(folder)[0]:
        total.update(f"{photo.path}\n".encode() + (folder / photo.path).read_bytes())
    return total.hexdigest()


def clear_staging() -> bool:
    """Remove `staging`; returns whether it is gone.

    Threads that were writing into it when they were interrupted may do so for another moment.
    """
    for pause in (0, 0.1, 0.3, 1):
        time.sleep(pause)
        shutil.rmtree(staging(), ignore_errors=True)
        if not staging().exists():
            return True
    return False


@contextlib.contextmanager
def locked() -> Iterator[int]:
    """Keep every other run out of ``data/``, which is created if missing, until the block ends.

    Yields the descriptor of the open lock file. On POSIX the lock also lives on in any process
    that inherits the descriptor, so a killed run's ``kaggle`` command still holds it. The operating
    system drops it when the last holder ends, however it ends. Raises DownloadError if another
    run holds the lock or the folder cannot be written to.
    """
    folder, shown = paths.data(), paths.shown(paths.data())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"The folder {shown} cannot be created: {error.strerror}. "
            "Set CATSDOGS_DATA to a folder that you can write to."
        ) from None
    try:
        lock = open(folder / ".lock", "a+b")
    except OSError as error:
        raise DownloadError(
            f"The folder {shown} cannot be written to: {error.strerror}. "
            "Fix that, or set CATSDOGS_DATA to a folder that you can write to."
        ) from None
    with lock:
        try:
            _lock(lock.fileno())
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise DownloadError(
                    f"Another run is downloading into {shown}. "
                    "Wait until it has ended, then run this again."
                ) from None
            # Some network file systems have no locks: better to go on than to refuse to work there.
            print(
                f"{shown} is on a file system without locks ({error.strerror}): "
                "do not start a second download into it before this one has ended.",
                file=sys.stderr,
            )
        yield lock.fileno()


def _lock(descriptor: int) -> None:
    """Lock an open file without waiting; raises OSError(EAGAIN or EACCES) if it is taken."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)  # this lock is on one byte, at the current position
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_record() -> dict:
    """The content of data/source.json, or an empty dict if it is missing or invalid."""
    try:
        record = files.read_json(paths.source_file())
        numbers = [record["photos"][name] for name in CLASSES]
        if isinstance(record["source"], str) and all(isinstance(n, int) for n in numbers):
            # "drawn" is what earlier versions called the synthetic sample.
            return {**record, "source": "synthetic"} if record["source"] == "drawn" else record
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError):
        pass
    return {}


def write_record(file: Path, record: dict) -> None:
    """Write data/source.json (or the one in `staging`) in one step; adds the time in UTC."""
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    files.write(file, json.dumps({**record, "finished": finished}, indent=2) + "\n")


def is_marked(photo: Path) -> bool:
    """Whether a file exists and has the mark of synthetic photos."""
    try:
        with open(photo, "rb") as file:
            return SYNTHETIC_MARK in file.read(1024)
    except OSError:
        return False


def looks_synthetic() -> bool:
    """Whether the first of the photos are synthetic, whatever data/source.json says."""
    firsts = [paths.photos() / name / f"{number}.jpg" for name in CLASSES for number in range(1, 6)]
    return any(map(is_marked, firsts))


def synthetic_untouched() -> bool:
    """Whether data/PetImages is exactly the synthetic sample as made: only that is replaced."""
    record = read_record()
    return (
        record.get("source") == "synthetic"
        and record["photos"] == counts(paths.photos())
        and record.get("sha256") == digest(paths.photos())
        and not find_photos(paths.photos())[1]
    )


def commit(record: dict) -> None:
    """Make what is in `staging` the photos of the project, with `record` as data/source.json."""
    write_record(staging() / paths.source_file().name, record)
    os.rename(staging(), unpacked())
    finish()


def finish() -> None:
    """Move what `commit` made final to its place; does nothing if everything is there already.

    The record goes first, and before it the photos that it is not about: at no moment is one that
    says of real photos where they came from beside synthetic ones.
    """
    new, old = unpacked() / "PetImages", unpacked() / "old"
    record = unpacked() / paths.source_file().name
    if not unpacked().exists():
        return
    if new.exists() and paths.photos().exists():
        # Photos that somebody put there between two runs are kept.
        if old.exists() or not synthetic_untouched():
            if old.exists() or not record.exists():  # source.json is not about them
                paths.source_file().unlink(missing_ok=True)
            shutil.rmtree(unpacked())
            return
        os.rename(paths.photos(), old)
    if record.exists():
        os.replace(record, paths.source_file())
    if new.exists():
        os.rename(new, paths.photos())
    if (unpacked() / "test").exists() and not paths.unlabelled().exists():
        os.rename(unpacked() / "test", paths.unlabelled())
    shutil.rmtree(unpacked())


def remove_empty(folder: Path) -> bool:
    """Remove `folder` if it holds no file; returns whether there is no such folder now."""
    for sub in (*(folder / name for name in CLASSES), folder):
        with contextlib.suppress(OSError):  # not there, or not empty
            if os.listdir(sub) == [".DS_Store"]:  # which macOS puts everywhere
                (sub / ".DS_Store").unlink()
            sub.rmdir()
    return not os.path.lexists(folder)


def needed(source: str) -> str:
    """What has to be fetched from `source`: NOTHING, EVERYTHING or UNLABELLED.

    Prints what is there already. Completes a killed run, and adopts photos that were put there by
    hand. Raises DownloadError if the photos that are there stand in the way of `source`.
    """
    finish()
    clear_staging()  # what a killed run left
    remove_empty(paths.unlabelled())
    if remove_empty(paths.photos()):
        return EVERYTHING
    if not read_record() and all(counts(paths.photos()).values()):
        write_record(paths.source_file(), record_by_hand())
    return lacking(source)


def is_read_only() -> bool:
    """Whether there are photos in a folder that cannot be written to; they can be used as well."""
    return not os.access(paths.data(), os.W_OK) and all(counts(paths.photos()).values())


def record_by_hand() -> dict:
    """The record of photos that are there and have none."""
    return {
        "source": "synthetic" if looks_synthetic() else "by hand",
        "archive": None,
        "sha256": None,
        "bytes": None,
        "photos": counts(paths.photos()),
        "unlabelled": count_unlabelled(paths.unlabelled()),
    }


def lacking(source: str) -> str:
    """As `needed`, for photos that are there; writes nothing."""
    photos, folder = counts(paths.photos()), paths.shown(paths.photos())
    if not all(photos.values()):
        raise DownloadError(
            f"{folder} holds {in_words(photos)}; at least one of each was expected, in its folders "
            "Cat and Dog. Add what is missing, or move the folder away and run this again."
        )
    record = read_record() or record_by_hand()
    synthetic = record["source"] == "synthetic"
    if synthetic and source != "synthetic":
        if synthetic_untouched():
            return EVERYTHING
        raise DownloadError(
            f"{folder} holds the synthetic sample, but its files have been changed since, so it is "
            "not replaced. Move it away and run this again."
        )

    describe(record, photos)
    if source == "synthetic" and not synthetic:
        raise DownloadError(
            f"Synthetic photos never replace real ones: move {folder} away to get synthetic ones."
        )
    if not synthetic and record["photos"] == photos and record["source"] != source:
        print(f"To get them from {source} instead, move {folder} away and run this again.")
    if source == "kaggle" and not paths.unlabelled().exists():
        return UNLABELLED
    return NOTHING


def describe(record: dict, photos: dict[str, int]) -> None:
    """Print which photos are there, and how their number differs from the one in `record`."""
    folder, finished = paths.shown(paths.photos()), record.get("finished")
    day = str(finished)[:10] if finished else "day unknown"
    print(f"{folder} is there: {in_words(photos)}, source: {record['source']}, {day}.", flush=True)
    if sentence := left_out(paths.photos()):
        print(sentence, file=sys.stderr)
    missing = sum(max(0, record["photos"][name] - photos[name]) for name in CLASSES)
    added = sum(max(0, photos[name] - record["photos"][name]) for name in CLASSES)
    if missing or added:
        print(
            f"But {missing:,} photos are missing and {added:,} are new since {day}. "
            f"To get the complete set again, move {folder} away and run this again.",
            file=sys.stderr,
        )


def left_out(folder: Path) -> str:
    """A sentence about the files in `folder` that are not used; empty if there are none."""
    others = find_photos(folder)[1]
    if not others:
        return ""
    return (
        f"Left out: {counted(len(others), 'file')}, no photos or with a folder and a name that tell "
        f"neither cat nor dog, such as {printable(others[0])}."
    )
