"""The photos of one protocol as arrays, ready for `model.fit`."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs import CLASS_NAMES, arrays, check, paths, splits


@dataclass(frozen=True)
class Photos:
    """Some photos as arrays.

    ``images``: uint8, shape (photos, size, size, 3), RGB, 0 to 255; mapped from a file where that is possible, and then
    read-only. ``labels``: uint8, shape (photos,), 0 for a cat and 1 for a dog. ``names``: paths below
    ``data/PetImages``, such as ``Cat/17.jpg``.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self):
        return len(self.labels)


def load(protocol: str = "full", image_size: int = 64, *, leave_out: Collection[str] = (), progress: bool = True) -> tuple[Photos, Photos]:
    """The training and the validation photos of `protocol` (see `catsdogs.splits`), `image_size` pixels a side.

    Checks, splits and decodes the photos where that has not been done before. The training photos named in `leave_out`,
    such as `catsdogs.audit.not_right`, are left out; validation photos never are, so that accuracies can be compared.
    """
    rows = _without(splits.prepare(protocol, progress=progress), leave_out)
    return tuple(_load(rows, split, image_size, progress) for split in ("train", "val"))


def load_test(protocol: str = "full", image_size: int = 64, *, progress: bool = True) -> Photos:
    """The test photos of `protocol`: to be looked at once, when everything has been decided."""
    return _load(splits.prepare(protocol, progress=progress), "test", image_size, progress)


def source() -> dict:
    """What ``data/source.json`` says of the photos: ``source`` (``"drawn"`` for the drawn sample), ``photos``, …"""
    try:
        return json.loads(paths.source_file().read_text())
    except (OSError, ValueError):
        return {"source": "unknown"}


def is_drawn() -> bool:
    """Whether the photos at hand are the drawn sample, so that numbers and figures can say so."""
    return source()["source"] == "drawn"


def examples(count: int = 12) -> tuple[list[Path], str]:
    """Paths of `count` photos to try a model on, or fewer, cats and dogs in turn, and in words what they are.

    Test photos, which no model was trained on; where there are no photos at all, drawings made on the spot.
    """
    if paths.photos().exists():
        rows = splits.prepare("full", progress=False)
        tests = rows[rows.split == "test"]
        half = -(-count // 2)
        # Where there are fewer of one than asked for, as many of each as there are of that.
        by_class = [group.sample(min(half, len(group)), random_state=0).photo for _, group in tests.groupby("label")]
        chosen = [paths.photos() / photo for pair in zip(*by_class) for photo in pair]
        return chosen[:count], "drawn test pictures" if is_drawn() else "test photos"
    from catsdogs import drawn

    folder, rng, chosen = paths.data() / "examples", np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        chosen.append(folder / f"{CLASS_NAMES[index % 2]}-{index // 2 + 1}.jpg")
        drawn.draw(index % 2, rng).save(chosen[-1])
    return chosen, "drawings made on the spot, as there are no photos in data/"


def describe(protocol: str = "full", leave_out: Collection[str] = ()) -> dict:
    """What a run record says of the photos: source, protocol, photos per split, fingerprint of photos and split.

    `leave_out` is as in `load`.
    """
    rows = _without(splits.prepare(protocol, progress=False), leave_out)
    return {"source": "drawn" if is_drawn() else "asirra", "protocol": protocol,
            "photos": {split: int((rows.split == split).sum()) for split in splits.SPLITS},
            "fingerprint": splits.fingerprint(rows)}


def _without(rows, names):
    return rows[~((rows.split == "train") & rows.photo.isin(list(names)))]


def _load(rows: pd.DataFrame, split, image_size, progress) -> Photos:
    # All good photos lie in one cache, whatever their split, so that both protocols share it. They lie there in the
    # order of `full`'s splits: a part of `full` is a slice of the mapped file then, and takes no memory of its own.
    order = _cache_order(rows)
    pixels = arrays.load_pixels(list(order.photo), list(order.sha256), image_size, progress=progress)
    wanted = rows[rows.split == split]
    position = pd.Series(np.arange(len(order)), index=order.photo)[wanted.photo].to_numpy()
    chosen = slice(position[0], position[-1] + 1) if (np.diff(position) == 1).all() else position
    return Photos(np.asarray(pixels)[chosen], wanted.label.to_numpy(np.uint8), list(wanted.photo))


def _cache_order(rows):
    table = check.check_photos(progress=False)
    try:
        full = splits.split_photos(table, splits.known_duplicates(table), "full")
    except ValueError:  # too few photos for `full`, which the protocol of `rows` can do with
        return rows
    return full.sort_values("split", kind="stable")
