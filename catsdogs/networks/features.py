"""Features extracted by frozen pretrained backbones: computed once, kept on disk, opened as arrays."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from catsdogs import files, paths
from catsdogs.data.dataset import Dataset
from catsdogs.data.decode import RESIZING, decode_all
from catsdogs.networks import pretrained

#: Photos per file of the cache: what is lost at most when the power fails.
CHUNK = 256
_BATCH = 32


@dataclass(frozen=True)
class Features:
    """Features of some photos.

    ``values``: float32, shape (photos, features). ``labels``: uint8, shape (photos,), 0 for a cat and 1 for a dog.
    ``names``: paths below ``data/PetImages``, such as ``Cat/17.jpg``.
    """

    values: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self):
        return len(self.labels)


class FeatureSet:
    """Features of the photos of `dataset` by `networks`, side by side: ``train``, ``val`` and ``test``, as in `Dataset`.

    `networks` maps names (see `catsdogs.networks.pretrained`) to the size, in pixels per side, of the images they are given.
    With `flip`, the features of a photo and of its horizontal flip are averaged (test-time augmentation).
    """

    def __init__(
        self,
        dataset: Dataset,
        networks: dict[str, int],
        *,
        flip: bool = False,
        progress: bool = True,
    ):
        self.dataset, self.networks, self.flip, self.progress = (
            dataset,
            dict(networks),
            flip,
            progress,
        )

    @cached_property
    def train(self) -> Features:
        """The training set."""
        return self._features("train")

    @cached_property
    def val(self) -> Features:
        """The validation set."""
        return self._features("val")

    @cached_property
    def test(self) -> Features:
        """The test set: to be read once, when everything has been decided."""
        return self._features("test")

    def _features(self, subset):
        # All good photos are computed, in one order, whatever their subset: so the files fit every split.
        good = self.dataset.table[self.dataset.table.problem == ""]
        rows = self.dataset.rows[self.dataset.rows.subset == subset]
        position = pd.Series(np.arange(len(good)), index=good.photo)[rows.photo].to_numpy()
        parts = []
        for network, size in self.networks.items():
            views = [
                compute(
                    list(good.photo),
                    list(good.sha256),
                    network,
                    size,
                    flip=flip,
                    progress=self.progress,
                )[position]
                for flip in ((False, True) if self.flip else (False,))
            ]
            parts.append(sum(views) / len(views))
        return Features(np.hstack(parts), rows.label.to_numpy(np.uint8), list(rows.photo))


def load_maps(
    dataset: Dataset,
    network: str,
    image_size: int,
    block: int,
    subset: str,
    *,
    progress: bool = True,
) -> Features:
    """The output of `block` of an EfficientNet-Lite for one subset of `dataset`: feature maps in place of features.

    ``values`` are float16, (photos, height, width, channels), for the second half of `catsdogs.networks.pretrained.split`
    to train on.
    """
    rows = dataset.rows[dataset.rows.subset == subset]
    values = compute(
        list(rows.photo), list(rows.sha256), network, image_size, block=block, progress=progress
    )
    return Features(values, rows.label.to_numpy(np.uint8), list(rows.photo))


def compute(
    photos: Sequence[str],
    contents: Sequence[str],
    network: str,
    image_size: int | None = None,
    *,
    flip: bool = False,
    runtime: str | None = None,
    block: int | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Features of `photos` by `network`, float32, shape (photos, features); of their horizontal flips if `flip`.

    With `block`, in place of features what that block of an EfficientNet-Lite gives, counted from 0: float16, shape
    (photos, height, width, channels), by Keras.

    `photos` are paths below `folder` (by default ``data/PetImages``) and `contents` the SHA-256 of each file. `runtime` is
    one of `catsdogs.networks.pretrained.runtimes`, by default the first.

    They are kept in ``data/features``, `CHUNK` photos a file, named by the photos' content, the network, the size, the
    runtime and the way of resizing. So what was computed before an interruption is not computed again, and photos that
    change are. A file that is damaged is made anew.

    Raises what `catsdogs.networks.pretrained.extractor` does, and `catsdogs.data.decode.PhotoError` for a photo that cannot be decoded.
    """
    size = image_size or pretrained.default_size(network)
    runtime = "keras" if block is not None else runtime or pretrained.runtimes(network)[0]
    kind = (np.float32, 2) if block is None else (np.float16, 4)
    folder = Path(folder or paths.photos())
    starts = range(0, len(photos), CHUNK)
    output = [
        _file(contents[start : start + CHUNK], network, size, flip, runtime, block)
        for start in starts
    ]
    found = [
        _read(file, len(photos[start : start + CHUNK]), *kind)
        for file, start in zip(output, starts)
    ]
    if missing := [index for index, values in enumerate(found) if values is None]:
        extract = pretrained.extractor(network, size, runtime, block=block)
        title = f"{network}, {size}×{size}{', flipped' if flip else ''}"
        done = sum(len(values) for values in found if values is not None)
        with tqdm(
            total=len(photos),
            initial=done,
            unit=" photos",
            desc=title,
            disable=not progress,
            mininterval=0.5,
        ) as bar:
            for index in missing:
                chunk = photos[starts[index] : starts[index] + CHUNK]
                decoded = decode_all((folder / photo for photo in chunk), size)
                parts = []
                while batch := list(islice(decoded, _BATCH)):
                    pixels = np.stack(batch)
                    parts.append(
                        extract(np.ascontiguousarray(pixels[:, :, ::-1]) if flip else pixels)
                    )
                    bar.update(len(batch))
                found[index] = np.concatenate(parts).astype(kind[0])
                _write(output[index], found[index])
    return np.concatenate(found)


def _file(contents, network, size, flip, runtime, block=None):
    lines = [
        RESIZING,
        network,
        str(size),
        runtime if block is None else f"block {block}",
        "flipped" if flip else "",
        *contents,
    ]
    key = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]
    return paths.features() / f"{network}-{size}px-{key}.npz"


def _read(path, count, dtype, dimensions):
    """The features in `path`, or None unless they are there, for `count` photos, and every byte is as it was written."""
    try:
        with np.load(path) as file:  # a zip archive, so its checksum is checked
            values = file["features"]
        return (
            values
            if values.dtype == dtype and values.ndim == dimensions and len(values) == count
            else None
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path, values):
    with files.replacing(path, sync=True) as partial, open(partial, "wb") as file:
        np.savez(file, features=values)
