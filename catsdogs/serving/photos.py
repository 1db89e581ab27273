"""Photos to classify: the files in folders, and downloads from web addresses."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from catsdogs.data.decode import MAX_BYTES, PhotoError, PhotoTooLarge
from catsdogs.text import printable

#: Extensions, in lower case, to look for in folders; a file that is named itself is always tried.
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


def find_photos(given: Iterable[str | os.PathLike]) -> Iterator[Path]:
    """The photos that `given` names: files as they are, folders searched recursively.

    Photos of a folder are sorted by path. A folder that cannot be read is yielded itself, so that
    reading it as a photo reports why.
    """
    for path in map(Path, given):
        # os.path's functions do not raise where a folder may not be entered or a name is too long.
        if not os.path.isdir(path):
            yield path
            continue
        found = []
        for folder, _, names in os.walk(
            path, onerror=lambda error: found.append(Path(error.filename))
        ):
            files = (
                Path(folder, name)
                for name in names
                if os.path.splitext(name)[1].lower() in EXTENSIONS
            )
            found += [file for file in files if os.path.isfile(file) or not os.path.exists(file)]
        yield from sorted(found)


def fetch(address: str, *, seconds: float = 20) -> bytes:
    """Download the photo at the web address `address`, http or https.

    Raises `catsdogs.data.decode.PhotoError` where there is none, it exceeds
    `catsdogs.data.decode.MAX_BYTES`, or the download takes more than `seconds`.
    """
    import http.client
    import time
    import urllib.error
    import urllib.request

    if not address.lower().startswith(("http://", "https://")):
        raise PhotoError(
            f"{printable(address)}: expected an address that begins with http:// or https://"
        )
    try:
        # Some sites refuse requests without a browser's User-Agent.
        request = urllib.request.Request(
            address, headers={"User-Agent": "Mozilla/5.0 (compatible; catsdogs)"}
        )
        with urllib.request.urlopen(request, timeout=seconds) as response:
            content, deadline = b"", time.monotonic() + seconds
            while len(content) <= MAX_BYTES and (part := response.read1(1 << 16)):
                content += part
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took over {seconds:g} seconds")
    except (OSError, ValueError, http.client.HTTPException) as error:
        # urllib raises ValueError for addresses it cannot parse.
        why = (
            error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        )
        raise PhotoError(f"{printable(address)} cannot be fetched: {printable(why)}") from None
    if len(content) > MAX_BYTES:
        raise PhotoTooLarge(f"more than {MAX_BYTES // 10**6} MB")
    return content
