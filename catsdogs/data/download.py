"""Gets the photos into ``data/PetImages/{Cat,Dog}/N.jpg`` from each source; the command line.

Notebooks call `download`; ``bash download_data.sh`` and ``python -m catsdogs download`` run `main`.
Standard library only (the synthetic sample needs NumPy and Pillow), Python 3.9 or newer: it runs
before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from catsdogs import files, paths
from catsdogs.data import archives, kaggle, store, unpack
from catsdogs.data.errors import (
    DISK_FULL,
    ArchiveError,
    DamagedError,
    DownloadError,
    UnreachableError,
)
from catsdogs.data.progress import say
from catsdogs.text import make_printing_safe, open_closed_streams

__all__ = ["DownloadError", "UnreachableError", "download", "main"]

MICROSOFT = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    "kagglecatsanddogs_5340.zip"
)
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

SOURCES = ("microsoft", "kaggle", "zip", "synthetic")

DESCRIPTION = """\
Puts the photos into data/PetImages/Cat and data/PetImages/Dog.

sources:
  microsoft   25,000 photos, 786 MB, from Microsoft; no account needed (default)
  kaggle      the same photos, and 12,500 unlabelled ones into data/test;
              needs a Kaggle account
  zip FILE    from a zip or tar archive, or a folder, that you have: Microsoft's,
              Kaggle's, or any with cats and dogs in folders or files named so
  synthetic   a few hundred computer-generated cats and dogs; no download

Run it again after an interruption: a download resumes where it stopped, and photos
that are already there are left alone (synthetic ones are replaced by real ones)."""

DETAILS = """\
environment:
  CATSDOGS_DATA         the folder to use instead of data/
  CATSDOGS_URL          a different address of Microsoft's archive
  CATSDOGS_TRIES        how often a download is tried (10)
  CATSDOGS_PAUSE        seconds between two tries (5)
  CATSDOGS_COMPETITION  the one Kaggle competition to use (dogs-vs-cats, then
                        dogs-vs-cats-redux-kernels-edition)
  CATSDOGS_KAGGLE       the kaggle command (.venv/bin/kaggle, else kaggle)
  CATSDOGS_SYNTHETIC    synthetic photos per class (240)
  http_proxy, https_proxy, all_proxy, no_proxy as usual

exit status: 0 the photos are there, 1 they are not, 2 wrong usage,
3 no source could be reached (no network, or nothing at the address any more),
130 interrupted."""


def download(
    source: str | os.PathLike = "microsoft", *, synthetic_fallback: bool = False
) -> None:
    """Get the photos from `source`, unless they are there already; shows its progress on stderr.

    `source` is ``"microsoft"``, ``"kaggle"``, ``"synthetic"``, or ``"zip FILE"``, the path of a zip
    or tar archive, or of a folder, which is looked for by `catsdogs.paths.find`; the path alone is
    enough. With `synthetic_fallback`, the synthetic sample is used where the source cannot be
    reached, and a message says so. Raises ValueError for an unknown source, UnreachableError if the
    source cannot be reached and there is no fallback, and DownloadError for every other failure;
    nothing is left half-finished in any case.
    """
    if isinstance(source, os.PathLike):
        get("zip", source, synthetic_fallback)
        return
    name, *file = str(source).split(None, 1) or [""]
    if name not in (*SOURCES, "drawn") and is_path(str(source)):
        name, file = "zip", [source]
    name = "synthetic" if name == "drawn" else name  # its name in earlier versions
    if name not in SOURCES or bool(file) != (name == "zip"):
        raise ValueError(
            f"the source is {source!r}; microsoft, kaggle, zip FILE or synthetic was expected"
        )
    get(name, file[0] if file else None, synthetic_fallback)


def is_path(source: str) -> bool:
    """Whether `source` is the path of something that exists, or looks like one that does not."""
    try:
        return bool(paths.find(source))
    except FileNotFoundError:
        return bool(re.search(r"[/\\~]", source) or archives.ARCHIVE.fullmatch(source.strip()))


def get(
    source: str, file: str | os.PathLike | None = None, synthetic_fallback: bool = False
) -> None:
    """As `download`; `source` is one of SOURCES, and `file` the archive if it is ``"zip"``."""
    archive = None if file is None else readable(file)
    try:
        if store.is_read_only() and enough_is_there(source, synthetic_fallback):
            return
        with store.locked() as lock:
            try:
                get_missing(source, archive, lock)
            finally:
                store.clear_staging()
                with contextlib.suppress(OSError):
                    paths.downloads().rmdir()  # unless something is left to resume
    except OSError as error:
        raise explained(error) from error
    except UnreachableError as error:
        if not synthetic_fallback:
            raise
        say(str(error))
        print(
            "\nNo source of photos can be reached. Carrying on with the synthetic sample: every "
            "figure and number\nof this run is marked as synthetic. With the real photos on disk: "
            "bash download_data.sh zip FILE\n",
            flush=True,
        )
        get("synthetic")


def enough_is_there(source: str, synthetic_fallback: bool) -> bool:
    """Whether photos that cannot be changed will do, as all of `source` or as a fallback for it."""
    needed = store.lacking(source)
    if needed == store.EVERYTHING and synthetic_fallback:
        say(
            f"{paths.shown(paths.data())} cannot be written to, so the synthetic sample in it "
            "stays, and is used."
        )
    return needed == store.NOTHING or synthetic_fallback


def get_missing(source: str, file: Path | None, lock: int) -> None:
    """Get what `source` has and data/ lacks, and print what is there then."""
    needed = store.needed(source)
    if needed == store.NOTHING:
        return
    if source == "microsoft":
        from_microsoft()
    elif source == "kaggle":
        from_kaggle(test_only=needed == store.UNLABELLED, lock=lock)
    elif file is not None:
        from_zip(file)
    else:
        make_synthetic()
    print(
        f"{paths.shown(paths.photos())} is ready: {store.in_words(store.counts(paths.photos()))}."
    )
    if unlabelled := store.count_unlabelled(paths.unlabelled()):
        print(f"{paths.shown(paths.unlabelled())} holds {unlabelled:,} unlabelled photos.")


def explained(error: OSError) -> DownloadError:
    """An error of the operating system in words that say what to do."""
    if error.errno in DISK_FULL:
        detail = "" if error.filename or not error.args[1:] else f" ({error.args[1]})"
        return DownloadError(
            f"The disk of {paths.shown(paths.data())} is full{detail}. "
            "Nothing was changed: make room, then run this again."
        )
    where = f"{error.filename}: " if error.filename else ""
    return DownloadError(
        f"{where}{error.strerror or error}. Nothing was left half-finished: "
        "fix that, then run this again."
    )


# --- the sources ----------------------------------------------------------------------------------


def from_microsoft() -> None:
    """Download Microsoft's archive, or the one at CATSDOGS_URL, and unpack it."""
    # Imported late: HTTP and TLS take longer to load than all the rest of the command line.
    from catsdogs.data import fetch

    url = os.environ.get("CATSDOGS_URL") or MICROSOFT
    tries = number("CATSDOGS_TRIES", 10, int, 1)
    pause = number("CATSDOGS_PAUSE", 5, float, 0)
    fetch.check_address(url)
    name = re.sub(r"[^\w.-]", "_", urllib.parse.urlsplit(url).path.split("/")[-1], flags=re.ASCII)
    if url != MICROSOFT:
        # Parts from two addresses must not be mixed, so the address is part of the file's name.
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:10]}-{name[-100:]}"
    paths.downloads().mkdir(exist_ok=True)
    file = paths.downloads() / name
    advice = "use a different source: kaggle, zip FILE or synthetic (see --help)"
    fetch.fetch(url, file, check=is_archive, tries=tries, pause=pause, advice=advice)
    with removed_after_use(file):
        install("microsoft", file, MICROSOFT_SHA256 if url == MICROSOFT else None)


def is_archive(file: Path) -> None:
    """Raise ArchiveError unless `file` is a complete archive of harmless members."""
    with archives.opened(file) as members:
        for _ in members:
            pass


def from_kaggle(test_only: bool, lock: int) -> None:
    """Download a competition's archive with the kaggle command, and unpack it."""
    archive = kaggle.download(paths.downloads(), test_only, inherit=lock)
    with removed_after_use(archive):
        install("kaggle", archive, test_only=test_only)
    shutil.rmtree(archive.parent)


def from_zip(file: Path) -> None:
    """Unpack an archive of the user's, or copy a folder; it is left alone."""
    try:
        install("zip", file)
    except DamagedError as error:
        raise DamagedError(
            f"{error} Nothing was changed: get the archive again from where it came."
        ) from None
    except ArchiveError as error:
        raise ArchiveError(f"{error} Nothing was changed.") from None


def make_synthetic() -> None:
    """Generate the synthetic sample; raises DownloadError without NumPy or Pillow."""
    per_class = number("CATSDOGS_SYNTHETIC", 240, int, 1)
    try:
        from catsdogs.data import synthetic
    except ImportError as error:
        raise DownloadError(
            f"The synthetic sample needs {error.name or 'more packages'}, which is not installed. "
            "Run `make install` first."
        ) from None
    store.staging().mkdir()
    folder = store.staging() / "PetImages"
    synthetic.write(folder, per_class=per_class)
    photos = [photo for name in store.CLASSES for photo in (folder / name).iterdir()]
    store.commit(
        {
            "source": "synthetic",
            "archive": None,
            "sha256": store.digest(folder),
            "bytes": sum(photo.stat().st_size for photo in photos),
            "photos": store.counts(folder),
            "unlabelled": store.count_unlabelled(paths.unlabelled()),
        }
    )


def readable(file: str | os.PathLike) -> Path:
    """The archive or folder `file`; raises DownloadError unless it is there and can be read."""
    try:
        found = paths.find(file)
    except FileNotFoundError as error:
        raise DownloadError(f"{error}\nGive the path of an archive or a folder: zip FILE") from None
    if not (found.is_file() or found.is_dir()):
        raise DownloadError(
            f"{found} is a device or a pipe.\nGive the path of an archive or a folder: zip FILE"
        )
    if not os.access(found, os.R_OK):
        raise DownloadError(
            f"{found} cannot be read.\nChange its permissions, then run this again."
        )
    return Path(os.path.abspath(found))  # so that "." has a name


@contextlib.contextmanager
def removed_after_use(archive: Path) -> Iterator[None]:
    """Remove an archive that we downloaded once it is unpacked, or found to be of no use."""
    try:
        yield
    except ArchiveError as error:
        archive.unlink()
        with contextlib.suppress(OSError):
            archive.parent.rmdir()
        raise ArchiveError(f"{error} It was removed: run this again to download it anew.") from None
    archive.unlink()


def install(source: str, file: Path, sha256: str | None = None, test_only: bool = False) -> None:
    """Unpack the archive `file`, or copy the folder, and make its photos those of the project.

    `sha256` is the expected checksum, if one is known; a different one is only told, as every
    photo has a checksum of its own. Errors: see `catsdogs.data.unpack.unpack`.
    """
    found = None if file.is_dir() else files.sha256(file)
    if sha256 and found != sha256:
        say(
            f"{file.name} is not the file that is known from this address: its SHA-256 is {found}. "
            "Each photo in it is now verified by its own checksum."
        )
    store.staging().mkdir()
    unpack.unpack(file, store.staging(), test_only)
    unlabelled = store.count_unlabelled(paths.unlabelled()) or store.count_unlabelled(store.staging() / "test")
    if test_only:
        record = {**store.read_record(), "unlabelled": unlabelled}
    else:
        record = {
            "source": source,
            "archive": file.name,
            "sha256": found,
            "bytes": None if file.is_dir() else file.stat().st_size,
            "photos": store.counts(store.staging() / "PetImages"),
            "unlabelled": unlabelled,
        }
    store.commit(record)


def number(name: str, default: float, kind: type, least: int):
    """The number in the environment variable `name`; raises DownloadError if it is not one."""
    text = os.environ.get(name) or default
    with contextlib.suppress(ValueError, OverflowError):
        if least <= (value := kind(text)) < 10**6:
            return value
    what = "a whole number" if kind is int else "a number"
    raise DownloadError(f"{name} is {text!r}; {what} from {least} to 999,999 was expected.")


# --- the command line -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command line takes to `parser`; `main` checks that FILE comes with zip only."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, DETAILS
    parser.usage = "%(prog)s [-h] [microsoft | kaggle | zip FILE | synthetic]"
    parser.add_argument("source", nargs="?", default="microsoft", help=argparse.SUPPRESS)
    parser.add_argument("file", nargs="?", metavar="FILE", help=argparse.SUPPRESS)


def main(
    arguments: Sequence[str] | None = None,
    *,
    program: str = "bash download_data.sh",
    synthetic_fallback: bool = False,
) -> int:
    """Run the command line `arguments`; returns the exit status and never ends in a traceback.

    `program` is the command's name in the help; `synthetic_fallback`: see `download`.
    """
    make_printing_safe()
    open_closed_streams()
    parser = argparse.ArgumentParser(prog=program)
    add_arguments(parser)
    chosen = parser.parse_args(arguments)
    if chosen.source == "drawn":  # what earlier versions called it
        chosen.source = "synthetic"
    if chosen.source not in SOURCES and chosen.file is None and is_path(chosen.source):
        chosen.source, chosen.file = "zip", chosen.source
    if chosen.source not in SOURCES:
        parser.error(f"the source is {chosen.source!r}; {', '.join(SOURCES)} are known")
    if chosen.source == "zip" and not chosen.file:
        parser.error("zip needs the path of an archive: zip FILE")
    if chosen.source != "zip" and chosen.file is not None:
        parser.error(f"{chosen.source} takes no further argument, found {chosen.file!r}")
    try:
        with interruptible():
            get(chosen.source, chosen.file, synthetic_fallback)
        return 0
    except DownloadError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        left = f"{paths.shown(store.staging())} could not be removed"
        left = left if store.staging().exists() else "Nothing was left half-finished"
        say("", f"Stopped. {left}; run this again to resume.")
        return 130
    except Exception as error:  # a sentence serves a user better than a traceback
        say(
            f"This is a bug: {type(error).__name__}: {error}. "
            "Nothing was left half-finished; please report it."
        )
        return 1


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP the same as Ctrl-C; nothing interrupts the clean-up after one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    # What is ignored stays so, as under nohup.
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(number, frame):
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


if __name__ == "__main__":
    sys.exit(main())
