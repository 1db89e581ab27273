"""The cache: photos decoded and resized once per size, kept on disk as arrays, memory-mapped."""

import hashlib
import io
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from catsdogs import files, paths
from catsdogs.data.checked import PhotosChanged, decode_checked
from catsdogs.data.decode import RESIZING, PhotoError

#: How many photos are written to a cache together.
_WRITTEN_TOGETHER = 32


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
    files.clear_partials(path.parent)
    pixels = _open(path, shape)
    if pixels is None:
        try:
            _write(path, folder, photos, contents, shape, progress)
        except OSError as error:
            if error.errno not in files.READ_ONLY:
                raise
            print(
                f"{paths.shown(path.parent)} cannot be written to ({os.strerror(error.errno)}), and "
                f"has no array of these photos at {size} pixels: they are decoded into "
                f"{tempfile.gettempdir()} for as long as this process runs."
            )
            return _temporary(folder, photos, contents, shape, progress)
        pixels = _open(path, shape)
        if pixels is None:
            raise OSError(
                f"{paths.shown(path)} was written and reads back differently: is the disk failing?"
            )
    return pixels


def _key(photos, contents, size):
    described = (f"{photo} {content}" for photo, content in zip(photos, contents, strict=True))
    lines = [RESIZING, str(size), *described]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _open(path, shape):
    """The array at `path`, or None unless its note describes it, checksum and all."""
    try:
        note = files.read_json(path.with_suffix(".json"))
        # The checksum first: whatever else is in the file has not been written by us.
        if note.get("crc32") != _checksum(path) or note.get("name", path.name) != path.name:
            return None
        pixels = np.load(path, mmap_mode="r")
        return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None
    except (OSError, ValueError):
        return None


def _checksum(path):
    # CRC-32 reads gigabytes per second and finds what a failing disk or a cut-off write does. The
    # file is read, not mapped: what is mapped counts as this process's memory.
    crc, block = 0, bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            crc = zlib.crc32(memoryview(block)[:count], crc)
    return crc


def _write(path, folder, photos, contents, shape, progress):
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f"{shape[1]}px-*"):
        # Of different photos, or of photos that have changed since: nothing will ask for it again.
        if stale.stem != path.stem:  # which another process may have written in this moment
            stale.unlink(missing_ok=True)
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    # Not by `np.memmap`: a mapped file that the disk has no room for kills the process. And without
    # waiting for the disk: if the power fails, the checksum tells.
    with files.replacing(path) as partial, open(partial, "wb", buffering=0) as file:
        crc = _decode_into(file, header.getvalue(), folder, photos, contents, shape, progress)
    # The checksum is written last: an array without one is never used.
    note = {"crc32": crc, "name": path.name, "shape": shape, "resizing": RESIZING}
    files.write(path.with_suffix(".json"), json.dumps(note))


def _temporary(folder, photos, contents, shape, progress):
    place = Path(tempfile.gettempdir())
    with files.full_disk_explained(place), tempfile.TemporaryFile() as file:
        _decode_into(file, b"", folder, photos, contents, shape, progress)
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=shape)


def _decode_into(file, header, folder, photos, contents, shape, progress):
    """Write `header` and the pixels of `photos` to `file`; returns the CRC-32 of both."""
    size = shape[1]
    files.reserve(file, len(header) + int(np.prod(shape)))
    crc, problems = _append(file, header, 0), {}
    decoded = tqdm(
        decode_checked(folder, photos, contents, size),
        total=len(photos),
        unit=" photos",
        disable=not progress,
        desc=f"Decoding to {size}×{size}",
        mininterval=0.5,
    )
    images: list[np.ndarray] = []
    for photo, image in zip(photos, decoded):
        if isinstance(image, PhotoError):
            problems[photo] = str(image)
        else:
            images.append(image)
        # Many at a time: for each call, this thread waits for those that decode.
        if len(images) == _WRITTEN_TOGETHER:
            crc = _append(file, np.stack(images), crc)
            images = []
    if problems:  # all of them, to be named at once
        raise PhotosChanged(problems)
    return _append(file, np.stack(images), crc) if images else crc


def _append(file, content, crc):
    """Write `content` to `file`, and return the CRC-32 of what is in it then."""
    view = memoryview(content).cast("B")
    while view:  # an unbuffered file may take a part
        view = view[file.write(view) :]
    return zlib.crc32(content, crc)
