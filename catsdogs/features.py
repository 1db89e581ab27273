"""Features of photos from pretrained networks: computed once, kept on disk, handed out as arrays."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from catsdogs import check, paths, pretrained, splits
from catsdogs.decode import RESIZING, decode

#: Photos in a file of the cache: what is lost at most when the power goes.
CHUNK = 256
_BATCH = 32


@dataclass(frozen=True)
class Features:
    """What networks say of some photos.

    ``values``: float32, shape (photos, features). ``labels``: uint8, shape (photos,), 0 for a cat and 1 for a dog.
    ``names``: paths below ``data/PetImages``, such as ``Cat/17.jpg``.
    """

    values: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self):
        return len(self.labels)


def load(protocol: str, networks: dict[str, int], *, mirrored: bool = False, progress: bool = True) -> tuple[Features, Features]:
    """Features of the training and the validation photos of `protocol` (see `catsdogs.splits`).

    `networks` maps names (see `catsdogs.pretrained`) to the pixels a side of the photos they are given; the features of
    several stand side by side. With `mirrored`, those of a photo and of its mirror image are averaged.
    """
    return tuple(_load(protocol, networks, split, mirrored, progress) for split in ("train", "val"))


def load_test(protocol: str, networks: dict[str, int], *, mirrored: bool = False, progress: bool = True) -> Features:
    """Features of the test photos of `protocol`: to be looked at once, when everything has been decided."""
    return _load(protocol, networks, "test", mirrored, progress)


def load_maps(protocol: str, network: str, image_size: int, block: int, splits_wanted: Sequence[str] = ("train", "val"), *,
              progress: bool = True) -> tuple[Features, ...]:
    """What `block` of an EfficientNet-Lite gives for the photos of `protocol`, split by split: maps in place of features.

    ``values`` are float16, (photos, height, width, channels), for the second half of `catsdogs.pretrained.split` to train on.
    """
    rows, found = splits.prepare(protocol, progress=progress), []
    for split in splits_wanted:
        wanted = rows[rows.split == split]
        values = compute(list(wanted.photo), list(wanted.sha256), network, image_size, block=block, progress=progress)
        found.append(Features(values, wanted.label.to_numpy(np.uint8), list(wanted.photo)))
    return tuple(found)


def compute(photos: Sequence[str], contents: Sequence[str], network: str, image_size: int | None = None, *, mirrored: bool = False,
            runtime: str | None = None, block: int | None = None, folder: Path | None = None, progress: bool = True) -> np.ndarray:
    """Features of `photos` by `network`, float32, shape (photos, features); of their mirror images if `mirrored`.

    With `block`, in place of features what that block of an EfficientNet-Lite gives, counted from 0: float16, shape
    (photos, height, width, channels), by Keras.

    `photos` are paths below `folder` (by default ``data/PetImages``) and `contents` the SHA-256 of each file. `runtime` is
    one of `catsdogs.pretrained.runtimes`, by default the first.

    They are kept in ``data/features``, `CHUNK` photos a file, named by the photos' content, the network, the size, the
    runtime and the way of resizing. So what was computed before an interruption is not computed again, and photos that
    change are. A file that is damaged is made anew.

    Raises what `catsdogs.pretrained.extractor` does, and `catsdogs.decode.PhotoError` for a photo that cannot be decoded.
    """
    size = image_size or pretrained.default_size(network)
    runtime = "keras" if block is not None else runtime or pretrained.runtimes(network)[0]
    kind = (np.float32, 2) if block is None else (np.float16, 4)
    folder = Path(folder or paths.photos())
    starts = range(0, len(photos), CHUNK)
    files = [_file(contents[start:start + CHUNK], network, size, mirrored, runtime, block) for start in starts]
    found = [_read(file, len(photos[start:start + CHUNK]), *kind) for file, start in zip(files, starts)]
    if missing := [index for index, values in enumerate(found) if values is None]:
        extract = pretrained.extractor(network, size, runtime, block=block)
        title = f"{network}, {size}×{size}{', mirrored' if mirrored else ''}"
        with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
                total=len(photos), initial=sum(len(values) for values in found if values is not None), unit=" photos",
                desc=title, disable=not progress, mininterval=0.5) as bar:
            for index in missing:
                chunk = photos[starts[index]:starts[index] + CHUNK]
                parts = []
                for start in range(0, len(chunk), _BATCH):
                    batch = chunk[start:start + _BATCH]
                    pixels = np.stack(list(pool.map(lambda photo: decode(folder / photo, size), batch)))
                    parts.append(extract(np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels))
                    bar.update(len(batch))
                found[index] = np.concatenate(parts).astype(kind[0])
                _write(files[index], found[index])
    return np.concatenate(found)


def _load(protocol, networks, split, mirrored, progress):
    rows = splits.prepare(protocol, progress=progress)
    # All good photos are computed, in one order, whatever their split: so the files fit every split and both protocols.
    table = check.check_photos(progress=False)
    good = table[table.problem == ""]
    wanted = rows[rows.split == split]
    position = pd.Series(np.arange(len(good)), index=good.photo)[wanted.photo].to_numpy()
    parts = []
    for network, size in networks.items():
        values = compute(list(good.photo), list(good.sha256), network, size, progress=progress)[position]
        if mirrored:
            other = compute(list(good.photo), list(good.sha256), network, size, mirrored=True, progress=progress)
            values = (values + other[position]) / 2
        parts.append(values)
    return Features(np.hstack(parts), wanted.label.to_numpy(np.uint8), list(wanted.photo))


def _file(contents, network, size, mirrored, runtime, block=None):
    lines = [RESIZING, network, str(size), runtime if block is None else f"block {block}", "mirrored" if mirrored else "", *contents]
    key = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]
    return paths.features() / f"{network}-{size}px-{key}.npz"


def _read(path, count, dtype, dimensions):
    """The features in `path`, or None unless they are there, for `count` photos, and every byte is as it was written."""
    try:
        with np.load(path) as file:  # a zip archive, so its checksum is checked
            values = file["features"]
        return values if values.dtype == dtype and values.ndim == dimensions and len(values) == count else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, features=values)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
