"""The cache: photos decoded and resized once per size, kept on disk as arrays, memory-mapped."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from catsdogs import files, paths
from catsdogs.data.decode import RESIZING, decode_all


def load_pixels(
    photos: Sequence[str],
    contents: Sequence[str],
    size: int,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The pixels of `photos` as a read-only, memory-mapped uint8 array (photos, size, size, 3).

    `photos` are paths below `folder` (by default ``data/PetImages``) and `contents` the SHA-256 of
    each file: together with `size` (pixels) and the way of resizing they are the cache's key. The
    first call decodes on all cores, with a progress bar, into ``data/arrays``; later calls map that
    file. A cache of different photos, a different size or a different way of resizing has a
    different name; one that is damaged, or was cut short by a power failure, is made anew.

    The CRC-32 of the whole array is compared every time it is opened. That reads the file once, as
    the first epoch would, and takes about half of the time to open a `Dataset`. It is not
    skipped when size and modification time are as they were, since a failing disk, the damage it
    is there to find, changes neither; and a training run is long compared to it.

    Raises `ValueError` for a size that is no positive integer, and
    `catsdogs.data.decode.PhotoError` for a photo that cannot be decoded.
    """
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or not 1 <= size <= 2048:
        raise ValueError(f"image size {size!r}: expected a whole number of pixels from 1 to 2048")
    folder = Path(folder or paths.photos())
    shape = (len(photos), int(size), int(size), 3)
    path = paths.arrays() / f"{size}px-{_key(photos, contents, size)}.npy"
    pixels = _open(path, shape)
    if pixels is None:
        _write(path, folder, photos, shape, progress)
        pixels = _open(path, shape)
        if pixels is None:
            raise OSError(
                f"{paths.shown(path)} was written and reads back differently: "
                "is the disk failing or full?"
            )
    return pixels


def _key(photos, contents, size):
    described = (f"{photo} {content}" for photo, content in zip(photos, contents, strict=True))
    lines = [RESIZING, str(size), *described]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _open(path, shape):
    """The array at `path`, or None unless it exists with this shape and its noted CRC-32."""
    try:
        written = json.loads(path.with_suffix(".json").read_text())
        pixels = np.load(path, mmap_mode="r")
        if pixels.shape != shape or pixels.dtype != np.uint8 or _checksum(path) != written["crc32"]:
            return None
        return pixels
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _checksum(path):
    # CRC-32 reads gigabytes per second and finds what a failing disk or a cut-off write does. The
    # file is read, not mapped: what is mapped counts as this process's memory.
    crc, block = 0, bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            crc = zlib.crc32(memoryview(block)[:count], crc)
    return crc


def _write(path, folder, photos, shape, progress):
    path.parent.mkdir(parents=True, exist_ok=True)
    size = shape[1]
    for stale in path.parent.glob(f"{size}px-*"):
        # Of different photos, or of photos that have changed since: nothing will ask for it again.
        stale.unlink(missing_ok=True)
    with files.replacing(path, sync=True) as partial:
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        decoded = tqdm(
            decode_all((folder / photo for photo in photos), size),
            total=len(photos),
            unit=" photos",
            disable=not progress,
            desc=f"Decoding to {size}×{size}",
            mininterval=0.5,
        )
        for index, image in enumerate(decoded):
            pixels[index] = image
        pixels.flush()
        del pixels
        crc = _checksum(partial)
    # The checksum is written last: an array without one is never used.
    note = {"crc32": crc, "shape": shape, "resizing": RESIZING}
    files.write(path.with_suffix(".json"), json.dumps(note))
