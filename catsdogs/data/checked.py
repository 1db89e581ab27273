"""Decode photos that have been checked before: one that has changed since is found, and named."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from catsdogs.data import decode
from catsdogs.data.decode import PhotoError
from catsdogs.parallel import map_in_threads
from catsdogs.text import Message


class PhotosChanged(Message, PhotoError):  # noqa: N818
    """Some photos are no longer as they were checked: ``photos``, by name, and the reasons."""

    def __init__(self, problems: dict[str, str]):
        self.photos: Collection[str] = list(problems)
        named = [f"{photo}: {problem}" for photo, problem in problems.items()]
        more = f", and {len(named) - 5:,} more" if len(named) > 5 else ""
        super().__init__("; ".join(named[:5]) + more)


def decode_checked(
    folder: Path, photos: Sequence[str], contents: Sequence[str], size: int
) -> Iterator[np.ndarray | PhotoError]:
    """`decode_one` for each of `photos`, paths below `folder`, in their order, on all cores."""

    def decode_next(photo_and_content):
        photo, content = photo_and_content
        return decode_one(folder / photo, content, size)

    return map_in_threads(decode_next, zip(photos, contents, strict=True))


def decode_one(path: Path, content: str, size: int) -> np.ndarray | PhotoError:
    """`catsdogs.data.decode.decode` of the file at `path`, whose SHA-256 was `content`.

    A photo that has changed since, is gone, or cannot be decoded gives a `PhotoError` in place of
    an array. (One that has changed may be a good photo: but whether it is a copy of another has not
    been checked.) A `content` that is no SHA-256 is not compared.
    """
    try:
        found = decode.read_content(path)
        image = decode.decode(found, size)
        if len(content) == 64 and _sha256(found) != content:
            return PhotoError("has changed since it was checked")
        return image
    except PhotoError as error:
        return error


def _sha256(content):
    # In small pieces, for which Python does not let another thread have the interpreter: getting it
    # back may take as long as decoding a photo. Large photos take long anyway.
    if len(content) > 100_000:
        return hashlib.sha256(content).hexdigest()
    total = hashlib.sha256()
    for start in range(0, len(content), 2000):
        total.update(content[start : start + 2000])
    return total.hexdigest()
