"""Which files are photos, and of what: told by their names, by the same rules everywhere.

Standard library only, Python 3.9 or newer, as downloading uses it.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator

from catsdogs import CLASS_NAMES

#: Extensions of photos, in lower case.
EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
    ".avif",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
)

#: What operating systems put beside photos, in lower case; as good as hidden.
_SYSTEM = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}
_CLASS = f"({'|'.join(CLASS_NAMES)})s?"
_CLASS_FOLDER = re.compile(_CLASS, re.IGNORECASE)
_NUMBERED = re.compile(rf"(?:{_CLASS}[ ._-]*)?\(?([0-9]{{1,9}})\)?", re.IGNORECASE)
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")  # "MyCat_2" is My and Cat, "kagglecatsanddogs" is one


def is_hidden(path: str) -> bool:
    """Whether `path`, relative and with ``/``, is of a hidden file or in a hidden folder."""
    return "/." in f"/{path}" or not _SYSTEM.isdisjoint(path.lower().split("/"))


def is_photo(path: str) -> bool:
    """Whether `path` ends as photos do. Hidden files are none."""
    return os.path.splitext(path)[1].lower() in EXTENSIONS and not is_hidden(path)


def number(path: str) -> int | None:
    """The number of a photo named by it, such as ``17.jpg``, ``cat.17.jpg`` or ``Dog (17).png``.

    It has at most nine digits. The number of a photo that is named in any other way is None.
    """
    match = _NUMBERED.fullmatch(_stem(path))
    return int(match[2]) if match else None


def label(path: str) -> int | None:
    """The class of the photo `path`, relative and with ``/``; None where its name does not tell.

    The first of these that there is decides: the nearest folder named cat, cats, dog or dogs, in
    upper or lower case; a file's name of class and number, such as ``cat.17.jpg``; the nearest
    folder, and last the file, that has the word for one class in its name and not those for both.
    """
    exact, worded = _label_of_folder(path.rpartition("/")[0])
    if exact is not None:
        return exact
    if is_unlabelled(path):
        return None
    match = _NUMBERED.fullmatch(_stem(path))
    if match and match[1]:
        return CLASS_NAMES.index(match[1].lower())
    return _label_of_words(_stem(path)) if worded is None else worded


def is_unlabelled(path: str) -> bool:
    """Whether `path` is of one of Kaggle's unlabelled photos, ``test/N.jpg`` or ``test1/N.jpg``."""
    folder, _, file = path.rpartition("/")
    exact, _ = _label_of_folder(folder)
    return (
        exact is None
        and folder.rpartition("/")[2].lower() in ("test", "test1")
        and re.fullmatch("[0-9]{1,9}", _stem(file)) is not None
    )


@functools.lru_cache(maxsize=1000)
def _label_of_folder(folder):
    """Two labels: of the nearest part of `folder` that is a class, and that has a class's word."""
    nearest = folder.split("/")[::-1]
    exact = [_CLASS_FOLDER.fullmatch(part) for part in nearest]
    return (
        next((CLASS_NAMES.index(match[1].lower()) for match in exact if match), None),
        next((found for part in nearest if (found := _label_of_words(part)) is not None), None),
    )


def _label_of_words(name):
    """The label of the class whose word, and no other's, is in `name`, or None."""
    words = {word.lower() for word in _WORD.findall(name)}
    found = [index for index, one in enumerate(CLASS_NAMES) if words & {one, f"{one}s"}]
    return found[0] if len(found) == 1 else None


def _stem(path):
    return os.path.splitext(path.rpartition("/")[2])[0]


def walk(
    folder: str | os.PathLike, onerror: Callable[[OSError], object] | None = None
) -> Iterator[os.DirEntry]:
    """Yield every file below `folder` that is not hidden, at any depth.

    Links to folders are followed, but no folder is entered twice. `onerror` is called with what a
    folder that cannot be read raises; without it, that is raised.
    """
    entered, waiting = set(), [os.fspath(folder)]
    while waiting:
        here = waiting.pop()
        try:
            facts = os.stat(here)
            if (facts.st_dev, facts.st_ino) in entered:
                continue
            entered.add((facts.st_dev, facts.st_ino))
            with os.scandir(here) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if onerror is None:
                raise
            onerror(error)
            continue
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                waiting.append(entry.path)
            else:
                yield entry
