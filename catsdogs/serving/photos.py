"""Photos to classify: the files in folders, and downloads from web addresses."""

import http.client
import os
import threading
import time
import urllib.error
from collections.abc import Iterable, Iterator
from pathlib import Path

from catsdogs import names, paths
from catsdogs.data.decode import MAX_BYTES, PhotoError, PhotoTooLarge
from catsdogs.data.errors import DownloadError
from catsdogs.data.fetch import make_opener, make_request, shown
from catsdogs.text import printable


def find_photos(given: str | os.PathLike | Iterable[str | os.PathLike]) -> Iterator[Path]:
    """The photos that `given` names, one path or several: files as they are, folders searched.

    Photos of a folder, at any depth and without hidden ones, are sorted by path;
    `catsdogs.names.is_photo` says what a photo is, and a file that is named itself is always one.
    A path is looked for by `catsdogs.paths.find`. What does not exist, or is a folder that cannot
    be read, is yielded itself, so that reading it as a photo reports why.
    """
    for path in [given] if isinstance(given, (str, os.PathLike)) else given:
        try:
            found = paths.find(path)
        except FileNotFoundError:
            yield Path(path)
            continue
        if not os.path.isdir(found):
            yield found
            continue
        unreadable: list[Path] = []
        inside = [
            Path(entry.path)
            for entry in names.walk(found, lambda error: unreadable.append(Path(error.filename)))
            if names.is_photo(entry.name) and (entry.is_file() or not os.path.exists(entry.path))
        ]
        yield from sorted(inside + unreadable)


def fetch(address: str, *, seconds: float = 20) -> bytes:
    """Download the photo at the web address `address`, http or https.

    Raises `catsdogs.data.decode.PhotoError` where there is none, it exceeds
    `catsdogs.data.decode.MAX_BYTES`, or the download takes more than `seconds` in all.
    """
    address = address.strip()
    if not address.lower().startswith(("http://", "https://")):
        raise PhotoError(
            f"{printable(address)}: expected an address that begins with http:// or https://"
        )
    results: list[bytes | Exception] = []

    def download():
        try:
            results.append(_download(address, seconds))
        except Exception as error:
            results.append(error)

    # In a thread: the library limits the time between two bytes of a response's head, not its sum.
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(seconds)
    found = results[0] if results else TimeoutError(f"it took over {seconds:g} seconds")
    if isinstance(found, Exception):
        if not isinstance(found, (OSError, ValueError, http.client.HTTPException, DownloadError)):
            raise found
        # urllib raises ValueError for addresses it cannot parse.
        is_answer = isinstance(found, urllib.error.HTTPError)
        why = found if is_answer else getattr(found, "reason", found)
        try:
            name = shown(address)
        except ValueError:
            name = printable(address)
        raise PhotoError(f"{name} cannot be fetched: {printable(why)}")
    if len(found) > MAX_BYTES:
        raise PhotoTooLarge(f"more than {MAX_BYTES // 10**6} MB")
    return found


def _download(address, seconds):
    """Up to one byte more than `MAX_BYTES`."""
    content, deadline = b"", time.monotonic() + seconds
    with make_opener().open(make_request(address), timeout=seconds) as response:
        while len(content) <= MAX_BYTES and (part := response.read1(1 << 16)):
            content += part
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took over {seconds:g} seconds")
    return content
