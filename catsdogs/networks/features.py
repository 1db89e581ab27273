"""Features extracted by frozen pretrained backbones: computed once, cached on disk."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from catsdogs import arrays, files, paths
from catsdogs.data.checked import PhotosChanged, decode_checked
from catsdogs.data.dataset import Dataset
from catsdogs.data.decode import RESIZING, PhotoError
from catsdogs.networks import pretrained

#: Photos per file of the cache: the most that an interruption loses.
CHUNK = 256
_BATCH = 32


@dataclass(frozen=True)
class Features:
    """The features of some photos.

    ``values``: float32, (photos, features). ``labels``: uint8, (photos,), 0 for a cat and 1 for a
    dog. ``names``: paths below ``data/PetImages``, such as ``Cat/17.jpg``.
    """

    values: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self):
        return len(self.labels)


class FeatureSet:
    """The features of the photos of `dataset`: ``train``, ``val`` and ``test``, as in `Dataset`.

    `networks` maps the names of backbones (see `catsdogs.networks.pretrained`) to the size, in
    pixels per side, of the images they are given; the features of several are concatenated. With
    `flip`, the features of a photo and its horizontal flip are averaged (test-time augmentation).
    """

    def __init__(
        self,
        dataset: Dataset,
        networks: dict[str, int],
        *,
        flip: bool = False,
        progress: bool = True,
    ):
        self.dataset, self.networks = dataset, dict(networks)
        self.flip, self.progress = flip, progress

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
        def extract(rows):
            # Always for all good photos, in one order, so that every split shares the cache.
            good = self.dataset.table[self.dataset.table.problem == ""]
            values = compute_all(
                list(good.photo),
                list(good.sha256),
                self.networks,
                flip=self.flip,
                errors="nan",
                progress=self.progress,
            )
            return pd.Index(good.photo), values

        return _of_subset(self.dataset, subset, extract)


def _of_subset(dataset, subset, extract: Callable) -> Features:
    """The `Features` of `subset`: those that ``extract(rows)`` has, for named photos, in any order.

    Photos that are found to be damaged or gone are left out of the data set: their features are
    NaN.
    """
    while True:
        rows = dataset.rows[dataset.rows.subset == subset]
        names, values = extract(rows)
        if not _leave_out(dataset, names[np.isnan(values.reshape(len(values), -1)[:, 0])]):
            break
    if list(names) != list(rows.photo):  # else they need no copy, which may take gigabytes
        values = values[names.get_indexer(rows.photo)]
    return Features(values, rows.label.to_numpy(np.uint8), list(rows.photo))


def _leave_out(dataset, photos):
    """Leave out `photos`, for which there are no features; whether there are any."""
    if len(photos) and not dataset.check_again(list(photos)):
        raise PhotosChanged(dict.fromkeys(photos, "no features, though it can be decoded"))
    return len(photos) > 0


def load_all(
    dataset: Dataset, networks: dict[str, int], *, progress: bool = True
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """All good photos of `dataset`, whatever their subset, and their features by each network.

    Returns the rows of its table, numbered from 0, and by the name of each of `networks`, which are
    those of `FeatureSet`, an array (photos, features).
    """
    while True:
        good = dataset.table[dataset.table.problem == ""].reset_index(drop=True)
        given = list(good.photo), list(good.sha256)
        found = {
            network: compute(*given, network, size, errors="nan", progress=progress)
            for network, size in networks.items()
        }
        if not _leave_out(dataset, good.photo[np.isnan(np.hstack([*found.values()])).any(axis=1)]):
            return good, found


def load_maps(
    dataset: Dataset,
    network: str,
    image_size: int,
    block: int,
    subset: str,
    *,
    progress: bool = True,
) -> Features:
    """The feature maps of `block` of an EfficientNet-Lite for one subset of `dataset`.

    ``values`` are float16, (photos, height, width, channels): the input of the upper part of
    `catsdogs.networks.pretrained.split`.
    """

    def extract(rows):
        values = compute(
            list(rows.photo),
            list(rows.sha256),
            network,
            image_size,
            block=block,
            errors="nan",
            progress=progress,
        )
        return pd.Index(rows.photo), values

    return _of_subset(dataset, subset, extract)


def compute_all(
    photos: Sequence[str],
    contents: Sequence[str],
    networks: dict[str, int],
    *,
    flip: bool = False,
    **options,
) -> np.ndarray:
    """The features of `photos` by each of `networks`, concatenated: float32, (photos, features).

    `networks` maps names to image sizes. With `flip`, the features of each photo and of its
    horizontal flip are averaged. `options` are those of `compute`.
    """
    parts = []
    for network, size in networks.items():
        views = [
            compute(photos, contents, network, size, flip=flipped, **options)
            for flipped in ((False, True) if flip else (False,))
        ]
        parts.append(sum(views) / len(views))
    return np.hstack(parts)


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
    errors: str = "raise",
    progress: bool = True,
) -> np.ndarray:
    """The features of `photos` by `network`, float32, (photos, features).

    With `flip`, those of the horizontal flips. With `block`, the feature maps of that block of an
    EfficientNet-Lite, counted from 0, computed by Keras: float16, (photos, height, width,
    channels).

    `photos` are paths below `folder` (by default ``data/PetImages``) and `contents` the SHA-256 of
    each file. `runtime` is one of `catsdogs.networks.pretrained.runtimes`, by default the first.

    Features are cached in ``data/features``, `CHUNK` photos per file. A file's name depends on the
    content of the photos, the network, the size, the runtime and the way of resizing. So work done
    before an interruption is not repeated, and photos that change are computed anew, as is a file
    that is damaged.

    Raises what `catsdogs.networks.pretrained.extractor` does, and
    `catsdogs.data.decode.PhotoError`, which names the file, for a photo that cannot be decoded or
    is not as `contents` says. With ``errors="nan"``, its features are NaN instead.
    """
    if errors not in ("raise", "nan"):
        raise ValueError(f"errors={errors!r}: expected 'raise' or 'nan'")
    size = image_size or pretrained.default_size(network)
    runtime = "keras" if block is not None else runtime or pretrained.runtimes(network)[0]
    dtype, dimensions = (np.float32, 2) if block is None else (np.float16, 4)
    folder = Path(folder or paths.photos())
    starts = range(0, len(photos), CHUNK)
    chunks = [(photos[start : start + CHUNK], contents[start : start + CHUNK]) for start in starts]
    cached = [_file(known, network, size, flip, runtime, block) for _, known in chunks]
    found = [_read(file, len(some), dtype, dimensions) for file, (some, _) in zip(cached, chunks)]
    if missing := [index for index, values in enumerate(found) if values is None]:
        extract = pretrained.extractor(network, size, runtime, block=block)
        done = sum(len(values) for values in found if values is not None)
        with tqdm(
            total=len(photos),
            initial=done,
            unit=" photos",
            desc=f"{network}, {size}×{size}{', flipped' if flip else ''}",
            disable=not progress,
            mininterval=0.5,
        ) as bar:
            for index in missing:
                values = _extract(extract, folder, *chunks[index], size, flip, errors, bar)
                found[index] = values.astype(dtype)
                # NaN is not cached: a photo may become readable, with a package more, say.
                if not np.isnan(values).any():
                    files.keep(cached[index], arrays.packed(features=found[index]))
    return np.concatenate(found)


def _extract(extract, folder, photos, contents, size, flip, errors, bar):
    """The features of one chunk of photos, in batches; NaN where one cannot be decoded."""
    decoded = zip(photos, decode_checked(folder, photos, contents, size))
    parts = []
    while batch := list(islice(decoded, _BATCH)):
        for photo, pixels in batch:
            if isinstance(pixels, PhotoError) and errors == "raise":
                raise PhotoError(f"{paths.shown(folder / photo)}: {pixels}")
        good = np.array([not isinstance(pixels, PhotoError) for _, pixels in batch])
        # A black image in place of a damaged one: it keeps the shape of the batch, and is dropped.
        black = np.zeros((size, size, 3), np.uint8)
        images = np.stack([pixels if ok else black for (_, pixels), ok in zip(batch, good)])
        values = extract(np.ascontiguousarray(images[:, :, ::-1]) if flip else images)
        parts.append(np.where(good.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan))
        bar.update(len(batch))
    return np.concatenate(parts)


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
    """The features in `path`, or None where they are missing, damaged or of the wrong shape."""
    try:
        values = arrays.read(path)["features"]
    except (OSError, ValueError, KeyError):
        return None
    expected = values.dtype == dtype and values.ndim == dimensions and len(values) == count
    return values if expected else None
