"""Unpacks an archive of photos into data/PetImages, whole or not at all.

Standard library only, Python 3.9 or newer: ``download_data.sh`` runs it before anything is installed.

Photos are unpacked in ``data/.unpacking``. Once that folder is complete, record included, one rename to
``data/.unpacked`` makes it final; what is left, moving its parts to their places, is done again by the
next run (``finish``) if this one is killed. So a kill leaves the old photos, the new ones, or a state
which the next run turns into the new ones.
"""

import argparse
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import zipfile
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

from catsdogs import paths

CLASSES = ("Cat", "Dog")

# A member's name is only matched, never used as a path: Cat/17.jpg and cat.17.jpg are photo 17 of class Cat.
LABELLED = re.compile(r"(?:.*/)?(cat|dog)[/.]([0-9]{1,9})\.jpe?g", re.IGNORECASE | re.DOTALL)
UNLABELLED = re.compile(r"(?:.*/)?test1?/([0-9]{1,9})\.jpe?g", re.IGNORECASE | re.DOTALL)
NESTED = re.compile(r"(?:.*/)?(train|test1?)\.zip", re.IGNORECASE | re.DOTALL)
PHOTO = re.compile(r"[0-9]+\.jpg")

# Sizes in bytes, far above the real ones (a photo: 0.5 MB, train.zip: 0.6 GB, everything: 1.2 GB).
MAX_PHOTO = 50 * 10**6
MAX_NESTED = 4 * 10**9
MAX_TOTAL = 10 * 10**9

# Answers of `check`, as exit statuses.
NOTHING_TO_DO, FETCH_ALL, FETCH_TEST = 0, 10, 11

LOCK = 9  # the file descriptor on which download_data.sh holds data/.lock open


class ArchiveError(Exception):
    """The archive cannot be used; the message says what was found and what was expected."""


def staging() -> Path:
    """Where photos are unpacked; of no value once the run that made it has ended."""
    return paths.data() / ".unpacking"


def unpacked() -> Path:
    """Complete photos on their way to their places."""
    return paths.data() / ".unpacked"


def count(folder: Path) -> int:
    """How many ``N.jpg`` lie in ``folder``; 0 where there is no such folder."""
    return sum(bool(PHOTO.fullmatch(name)) for name in os.listdir(folder)) if folder.is_dir() else 0


def counts(folder: Path) -> dict:
    """How many photos each class has in ``folder``."""
    return {name: count(folder / name) for name in CLASSES}


def named(photos: dict) -> str:
    """``{"Cat": 12500, "Dog": 12500}`` in words."""
    return f"{photos['Cat']:,} cats and {photos['Dog']:,} dogs"


def megabytes(size: int) -> str:
    return f"{size / 10**6:,.1f} MB"


def digest(folder: Path) -> str:
    """SHA-256 over all photos of both classes, in order of class and number."""
    total = hashlib.sha256()
    for name in CLASSES:
        numbers = sorted(
            int(photo[:-4]) for photo in os.listdir(folder / name) if PHOTO.fullmatch(photo)
        )
        for photo in (f"{number}.jpg" for number in numbers):
            total.update(f"{name}/{photo}\n".encode() + (folder / name / photo).read_bytes())
    return total.hexdigest()


def file_sha256(file: Path) -> str:
    """SHA-256 of a file of any size."""
    total = hashlib.sha256()
    with open(file, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


# --- reading archives -----------------------------------------------------------------------------


def open_zip(file: Path, name: str) -> zipfile.ZipFile:
    """Opens ``file`` (called ``name`` in messages) after checking that no member could lead astray.

    Raises ArchiveError when it is no whole zip, or when any member has an absolute path, a drive
    letter, ``..`` or is a link; such an archive was not made by Microsoft or Kaggle.
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # damage makes zipfile raise many things beside BadZipFile
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # EINVAL: a seek to a senseless place
            raise
        with open(file, "rb") as stream:
            start = stream.read(512)
        if not start:
            found = "is empty"
        elif re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
            found = "is a web page, not a zip archive"
        elif start.startswith(b"PK"):
            found = f"is cut short or damaged ({megabytes(file.stat().st_size)} came, its end is missing)"
        else:
            found = "is not a zip archive"
        raise ArchiveError(f"{name} {found}.") from None
    for info in archive.infolist():
        path = info.filename.replace("\\", "/")
        unsafe = ""
        if path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
            unsafe = "unsafe path"
        elif stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            unsafe = "link"
        if unsafe:
            raise ArchiveError(
                f"{name} holds the {unsafe} {ascii(info.filename)}, "
                "so nothing of it was unpacked; only plain photos were expected."
            )
    return archive


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, limit: int):
    """Yields the content of a member in blocks; reading to the end checks its CRC.

    Raises ArchiveError when it is encrypted, damaged, or larger than ``limit`` bytes.
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
            for block in iter(lambda: member.read(1 << 20), b""):
                yield block
    except Exception as error:  # as above
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ArchiveError(
            f"{name} is damaged, its content is not what its checksum says."
        ) from None


def find_photos(archive: zipfile.ZipFile) -> list:
    """Each photo as (folder, number, member); the folder is PetImages/Cat, PetImages/Dog or test."""
    found = []
    for info in archive.infolist():
        path = info.filename.replace("\\", "/")
        labelled, unlabelled = LABELLED.fullmatch(path), UNLABELLED.fullmatch(path)
        if labelled:
            found.append((f"PetImages/{labelled[1].capitalize()}", int(labelled[2]), info))
        elif unlabelled:
            found.append(("test", int(unlabelled[1]), info))
    return found


def need_room(size: int, files: int) -> None:
    """Raises OSError(ENOSPC) unless ``size`` bytes in so many files fit on the disk of the photos."""
    needed, free = size + 4096 * files, shutil.disk_usage(paths.data()).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{megabytes(needed)} are needed and {megabytes(free)} are free"
        )


def progress(items: list):
    """Yields ``items`` under a progress bar, if there is a terminal to show it on."""
    if not sys.stderr.isatty():
        yield from items
        return
    try:
        from tqdm import tqdm
    except ImportError:
        for done, item in enumerate(items, 1):
            yield item
            if done % 250 == 0 or done == len(items):
                bar = "#" * (30 * done // len(items))
                end = "\n" if done == len(items) else ""
                sys.stderr.write(f"\rUnpacking [{bar:<30}] {done:,} of {len(items):,}{end}")
                sys.stderr.flush()
    else:
        yield from tqdm(items, desc="Unpacking", unit=" photos")


def unpack(file: Path, target: Path, test_only: bool = False) -> None:
    """Unpacks the photos of ``file`` into ``target``/PetImages/{Cat,Dog}/N.jpg and ``target``/test/N.jpg.

    Knows Microsoft's layout, Kaggle's train.zip, and Kaggle's archive of such archives. ``test_only``
    leaves the labelled photos out. Raises ArchiveError for an archive that is not as expected (see
    ``open_zip``, ``read_member``) and OSError when the disk is full.
    """
    photos, opened = [], []
    try:
        outer = open_zip(file, file.name)
        opened.append(outer)
        photos += [(outer, file.name, *photo) for photo in find_photos(outer)]
        for info in outer.infolist():
            nested = NESTED.fullmatch(info.filename.replace("\\", "/"))
            if not nested or (test_only and nested[1].lower() == "train"):
                continue
            name = f"{nested[0].split('/')[-1]} in {file.name}"
            need_room(min(info.file_size, MAX_NESTED), 1)
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
        need_room(sum(info.file_size for *_, info in photos), len(photos))
        for folder in {folder for _, _, folder, _, _ in photos}:
            (target / folder).mkdir(parents=True)
        for archive, name, folder, number, info in progress(photos):
            content = b"".join(
                read_member(archive, info, f"{folder}/{number}.jpg in {name}", MAX_PHOTO)
            )
            (target / folder / f"{number}.jpg").write_bytes(content)
    finally:
        for archive in opened:
            archive.close()
    for copy in target.glob("nested-*.zip"):
        copy.unlink()


def check_photos(photos: list, name: str, test_only: bool) -> None:
    """Raises ArchiveError when classes are missing, a photo comes twice, or there is too much of it all."""
    have = Counter(folder for _, _, folder, _, _ in photos)
    if test_only and not photos:
        raise ArchiveError(f"{name} holds no unlabelled photos; test/N.jpg was expected.")
    if not test_only and not (have["PetImages/Cat"] and have["PetImages/Dog"]):
        raise ArchiveError(
            f"{name} holds {have['PetImages/Cat']:,} photos of cats and {have['PetImages/Dog']:,} of dogs; "
            "PetImages/{Cat,Dog}/N.jpg or train.zip with cat.N.jpg and dog.N.jpg were expected."
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


# --- the state of data/ ---------------------------------------------------------------------------


def read_record() -> dict:
    """What data/source.json says, or an empty dict when it is missing or makes no sense."""
    try:
        record = json.loads(paths.source_file().read_text(encoding="utf-8"))
        numbers = [record["photos"][name] for name in CLASSES]
        if isinstance(record["source"], str) and all(isinstance(number, int) for number in numbers):
            # "drawn" is what earlier versions called the synthetic sample.
            return {**record, "source": "synthetic"} if record["source"] == "drawn" else record
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return {}


def write_record(file: Path, record: dict) -> None:
    """Writes data/source.json (or its copy on its way in) in one step; stamps the time in UTC."""
    record["finished"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(new, file)


def synthetic_untouched() -> bool:
    """Whether data/PetImages is exactly what this project drew: only that may ever be replaced."""
    record = read_record()
    return (
        record.get("source") == "synthetic"
        and record["photos"] == counts(paths.photos())
        and record.get("sha256") == digest(paths.photos())
    )


def commit(record: dict) -> None:
    """Makes what lies in ``staging()`` the photos of this project, with ``record`` as data/source.json."""
    write_record(staging() / paths.source_file().name, record)
    os.rename(staging(), unpacked())
    finish()


def finish() -> None:
    """Moves what ``commit`` made final to its place; does nothing when all is there already."""
    new, old = unpacked() / "PetImages", unpacked() / "old"
    if not unpacked().exists():
        return
    if new.exists():
        if paths.photos().exists():
            if (
                old.exists() or not synthetic_untouched()
            ):  # somebody put photos there while we were not running
                shutil.rmtree(unpacked())
                return
            os.rename(paths.photos(), old)
        os.rename(new, paths.photos())
    if (unpacked() / "test").exists() and not paths.unlabelled().exists():
        os.rename(unpacked() / "test", paths.unlabelled())
    if (unpacked() / paths.source_file().name).exists():
        os.replace(unpacked() / paths.source_file().name, paths.source_file())
    shutil.rmtree(unpacked())


def remove_empty(folder: Path) -> bool:
    """Removes ``folder`` if it holds no file; says whether there is no such folder now."""
    for sub in (*(folder / name for name in CLASSES), folder):
        try:
            sub.rmdir()
        except OSError:
            pass  # not there, or not empty
    return not os.path.lexists(folder)


def check(source: str) -> int:
    """Says what is there and answers what to fetch: NOTHING_TO_DO, FETCH_ALL or FETCH_TEST.

    Exits with a message when the photos that are there stand in the way of ``source``.
    """
    finish()
    remove_empty(paths.unlabelled())
    if remove_empty(paths.photos()):
        return FETCH_ALL
    photos, folder = counts(paths.photos()), paths.shown(paths.photos())
    if not all(photos.values()):
        raise SystemExit(
            f"{folder} holds {named(photos)} (Cat/N.jpg and Dog/N.jpg); some of each were "
            "expected. Complete it by hand, or move it away and run this again."
        )
    record = read_record()
    if not record:
        record = {
            "source": "by hand",
            "archive": None,
            "sha256": None,
            "bytes": None,
            "photos": photos,
            "unlabelled": count(paths.unlabelled()),
        }
        write_record(paths.source_file(), record)
    real = record["source"] != "synthetic"
    if source != "synthetic" and not real:
        if synthetic_untouched():
            return FETCH_ALL
        raise SystemExit(
            f"{folder} was synthetic, but its files have changed since, so it is not replaced. "
            "Move it away and run this again."
        )

    day = str(record.get("finished"))[:10]
    print(f"{folder} is there: {named(photos)}, source: {record['source']}, {day}.", flush=True)
    missing = sum(max(0, record["photos"][name] - photos[name]) for name in CLASSES)
    added = sum(max(0, photos[name] - record["photos"][name]) for name in CLASSES)
    if missing or added:
        print(
            f"But {missing:,} photos are missing and {added:,} are new since {day}. "
            f"To get them all again, move {folder} away and run this again.",
            file=sys.stderr,
        )
    elif real and source not in ("synthetic", record["source"]):
        print(f"To fetch them from {source} instead, move {folder} away and run this again.")
    if source == "synthetic" and real:
        raise SystemExit(
            f"Drawn photos never replace real ones: move {folder} away to get synthetic ones."
        )
    if source == "kaggle" and not paths.unlabelled().exists():
        return FETCH_TEST
    return NOTHING_TO_DO


def lock() -> None:
    """Keeps every other run out for as long as download_data.sh, or a command it started, runs."""
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(
            f"Another run of download_data.sh is at work in {paths.shown(paths.data())}. "
            "Wait until it has ended, then run this again."
        ) from None


# --- the commands of download_data.sh -------------------------------------------------------------


def install(source: str, file: Path, expected: str, test_only: bool) -> None:
    """Unpacks ``file`` and makes its photos those of the project. Errors: see ``unpack``."""
    sha256 = file_sha256(file)
    if expected and sha256 != expected:
        print(
            f"{file.name} is not the file known from this address: its SHA-256 is {sha256}. "
            "Every photo in it is now checked by its own checksum.",
            file=sys.stderr,
        )
    staging().mkdir()
    unpack(file, staging(), test_only)
    unlabelled = count(paths.unlabelled()) or count(staging() / "test")
    if test_only:
        record = {**read_record(), "unlabelled": unlabelled}
    else:
        record = {
            "source": source,
            "archive": file.name,
            "sha256": sha256,
            "bytes": file.stat().st_size,
            "photos": counts(staging() / "PetImages"),
            "unlabelled": unlabelled,
        }
    commit(record)


def draw() -> None:
    """Draws photos and makes them those of the project; exits with a message without numpy or Pillow."""
    per_class = os.environ.get("CATSDOGS_SYNTHETIC") or "240"
    if not per_class.isdecimal() or int(per_class) < 1:
        raise SystemExit(
            f"CATSDOGS_SYNTHETIC is {per_class!r}; a number of photos, 1 or more, was expected."
        )
    try:
        from catsdogs.data import synthetic
    except ImportError as error:
        raise SystemExit(
            f"Drawing photos needs {error.name or 'more packages'}, which is not installed. "
            "Run `make install` first."
        ) from None
    staging().mkdir()
    folder = staging() / "PetImages"
    synthetic.write(folder, per_class=int(per_class))
    size = sum(photo.stat().st_size for name in CLASSES for photo in (folder / name).iterdir())
    commit(
        {
            "source": "synthetic",
            "archive": None,
            "sha256": digest(folder),
            "bytes": size,
            "photos": counts(folder),
            "unlabelled": count(paths.unlabelled()),
        }
    )


def run(command: argparse.Namespace) -> int:
    """Runs one command; returns its exit status."""
    if command.command == "check":
        return check(command.source)
    if command.command == "verify":
        open_zip(command.file, command.file.name).close()
        return 0
    if command.command == "draw":
        draw()
    else:
        install(command.source, command.file, command.sha256, command.test_only)
    print(f"{paths.shown(paths.photos())} is ready: {named(counts(paths.photos()))}.")
    if count(paths.unlabelled()):
        print(
            f"{paths.shown(paths.unlabelled())} holds {count(paths.unlabelled()):,} unlabelled photos."
        )
    return 0


def main() -> int:
    """The command line; never ends in a traceback."""
    parser = argparse.ArgumentParser(
        prog="catsdogs.data.archive", description="Run by download_data.sh."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("source")
    commands.add_parser("verify").add_argument("file", type=Path)
    commands.add_parser("draw")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("source")
    unpacking.add_argument("file", type=Path)
    unpacking.add_argument("--sha256", default="", help="the expected one")
    unpacking.add_argument("--test-only", action="store_true", help="leave the labelled photos out")
    unpacking.add_argument(
        "--ours", action="store_true", help="remove the archive once it is of no more use"
    )
    command = parser.parse_args()
    file, ours = getattr(command, "file", None), getattr(command, "ours", False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        lock()
        try:
            status = run(command)
        except ArchiveError as error:
            advice = (
                "It was removed: run this again to fetch it anew."
                if ours
                else "Nothing was changed: get it again from where it came."
            )
            print(f"{error} {advice}" if command.command == "unpack" else error, file=sys.stderr)
            status = 1
        finally:  # also of `check`, which so removes what a killed run has left
            shutil.rmtree(staging(), ignore_errors=True)
        if ours:
            file.unlink()
        return status
    except KeyboardInterrupt:
        return 130  # download_data.sh says what this means
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            detail = "" if error.filename or not error.args[1:] else f" ({error.args[1]})"
            print(
                f"The disk of {paths.shown(paths.data())} is full{detail}. Nothing was changed: "
                "make room, then run this again.",
                file=sys.stderr,
            )
        else:
            where = f"{error.filename}: " if error.filename else ""
            print(
                f"{where}{error.strerror or error}. Nothing half-made was left: "
                "mend that, then run this again.",
                file=sys.stderr,
            )
        return 1
    except (
        Exception
    ) as error:  # a mistake of ours; a reader is better served by a sentence than a traceback
        print(
            f"This should not happen: {type(error).__name__}: {error}. Nothing half-made was left.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
