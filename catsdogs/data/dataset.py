"""The photos of one split as arrays, ready for `model.fit`."""

import contextlib
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs import CLASS_NAMES, files, paths
from catsdogs.data import cache, check, splits, store
from catsdogs.data.checked import PhotosChanged
from catsdogs.data.download import MICROSOFT_SHA256

#: The SHA-256 of archives that hold Asirra: Microsoft's, and the copy of it, its photos reduced to
#: 180×180 pixels, that the published numbers were measured on.
ASIRRA = (
    MICROSOFT_SHA256,
    "6718d45342709a407fafb683da500da20af43e5f637f684341f13cebe1f7a80c",
)


@dataclass(frozen=True)
class Photos:
    """Some photos as arrays.

    - ``images``: uint8, shape (photos, size, size, 3), RGB, 0 to 255; memory-mapped where that is
      possible, and then read-only
    - ``labels``: uint8, shape (photos,), 0 for a cat and 1 for a dog
    - ``names``: paths below ``data/PetImages``, such as ``Cat/17.jpg``
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]

    def __len__(self):
        return len(self.labels)


class Dataset:
    """The photos of a predefined split (see `catsdogs.data.splits`), `image_size` pixels per side.

    Opening it checks and splits the photos, or reads what an earlier check found. The arrays are
    decoded, or mapped if they are cached, when the first subset is asked for. ``train`` and ``val``
    are the training and the validation set; ``test`` is the held-out test set, to be read once,
    when everything has been decided.

    A photo that is damaged or gone when it is needed, though it was good when it was checked, is
    named and left out (see `check_again`).

    The training photos named in `leave_out`, such as `catsdogs.analysis.audit.label_issues`'s, are
    left out. Those of the other subsets never are, so that accuracies can be compared.

    ``rows`` is the table of the split, `catsdogs.data.splits.split_photos`'; ``table`` is that of
    all photos, `catsdogs.data.check.check_photos`'; ``pairs`` is that of duplicates,
    `catsdogs.data.duplicates.find_duplicates`'.

    Raises `FileNotFoundError` if there are no photos, and `ValueError` for an unknown split, or
    one that these photos are too few for.
    """

    def __init__(
        self,
        split: str = "full",
        image_size: int = 64,
        *,
        leave_out: Collection[str] = (),
        progress: bool = True,
    ):
        self.split, self.image_size, self.progress = split, image_size, progress
        self.table, self.pairs = splits.open_photos(progress=progress)
        self._whole = splits.split_photos(self.table, self.pairs, split)
        splits.write_split(self._whole, split)
        left_out = (self._whole.subset == "train") & self._whole.photo.isin(list(leave_out))
        self.rows = self._whole[~left_out]

    @cached_property
    def train(self) -> Photos:
        """The training set."""
        return self._photos("train")

    @cached_property
    def val(self) -> Photos:
        """The validation set: for every choice, of a network, an epoch, a threshold."""
        return self._photos("val")

    @cached_property
    def test(self) -> Photos:
        """The test set: to be read once, when everything has been decided."""
        return self._photos("test")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ whenever a photo's content or its subset differs."""
        return splits.fingerprint(self.rows)

    def describe(self) -> dict:
        """What a run record holds of the photos: source, split, photos per subset, fingerprint."""
        return {
            "source": origin(),
            "split": self.split,
            "photos": {name: int((self.rows.subset == name).sum()) for name in splits.SUBSETS},
            "fingerprint": self.fingerprint,
        }

    def check_again(self, photos: Collection[str]) -> bool:
        """Check `photos` again, and leave out those that are not as they were; whether any is not.

        They are named. The subsets of all other photos stay as they are, though one that had a copy
        among them might change its subset the next time that the photos are opened.
        """
        checked = check.check_photos(again=photos, progress=False).set_index("photo")
        before = self.table.set_index("photo").sha256
        problems = {}
        for photo in photos:
            if photo not in checked.index:
                problems[photo] = "it is gone"
            elif checked.problem[photo] or checked.sha256[photo] != before[photo]:
                problems[photo] = checked.problem[photo] or "it has changed since it was checked"
        for photo, problem in problems.items():
            print(f"{photo} was good when it was checked, and is left out now: {problem}")

        out = list(problems)
        self.table = self.table.assign(
            problem=self.table.problem.where(~self.table.photo.isin(out), "has changed")
        )
        self.pairs = self.pairs[~(self.pairs["first"].isin(out) | self.pairs["second"].isin(out))]
        self._whole = self._whole[~self._whole.photo.isin(out)]
        self.rows = self.rows[~self.rows.photo.isin(out)]
        if len(self.rows.groupby(["subset", "label"])) < len(splits.SUBSETS) * len(CLASS_NAMES):
            raise ValueError(
                f"{len(out):,} photos in {paths.shown(paths.photos())} were changed or removed "
                "while they were used, and too few are left: open them again"
            )
        return bool(problems)

    def __repr__(self):
        counts = ((self.rows.subset == name).sum() for name in splits.SUBSETS)
        subsets = ", ".join(f"{count:,} {name}" for count, name in zip(counts, splits.SUBSETS))
        return f"Dataset({self.split!r}, {self.image_size}): {subsets} photos"

    def _photos(self, subset):
        position, pixels = self._pixels
        rows = self.rows[self.rows.subset == subset]
        chosen = position.get_indexer(rows.photo)
        if (np.diff(chosen) == 1).all():  # a view of the mapped file, which takes no memory
            chosen = slice(chosen[0], chosen[-1] + 1)
        return Photos(np.asarray(pixels)[chosen], rows.label.to_numpy(np.uint8), list(rows.photo))

    @cached_property
    def _pixels(self):
        """The photos in the order of the cache, as an index, and the cache."""
        while True:
            rows = self._in_order()
            try:
                pixels = cache.load_pixels(
                    list(rows.photo), list(rows.sha256), self.image_size, progress=self.progress
                )
                return pd.Index(rows.photo), pixels
            except PhotosChanged as changed:
                if not self.check_again(changed.photos):
                    raise

    def _in_order(self):
        # All good photos are in one cache, whatever their subset, so that all splits share it. They
        # are in the order of the subsets of `full`, each of which is one slice of it then.
        rows = self._whole
        if self.split != "full":
            try:
                rows = splits.split_photos(self.table, self.pairs, "full")
            except ValueError:  # too few photos for `full`, but enough for this split
                pass
        return rows.sort_values("subset", kind="stable")


def source() -> dict:
    """What ``data/source.json`` says of the photos: ``source``, ``photos`` (how many) and more.

    ``source`` is ``"synthetic"`` for the synthetic sample, whose photos say so themselves, and
    ``"unknown"`` without that file, or with one that is damaged.
    """
    try:
        found = files.read_json(paths.source_file())
    except (OSError, ValueError):
        found = {}
    if not isinstance(found.get("source"), str):
        found = {"source": "unknown"}
    if found["source"] == "drawn" or store.looks_synthetic():  # earlier versions wrote "drawn"
        found["source"] = "synthetic"
    return found


def is_synthetic() -> bool:
    """Whether the photos are the synthetic sample, so that numbers and figures can say so."""
    return source()["source"] == "synthetic"


def origin() -> str:
    """``"asirra"`` if the photos are known to be Asirra's, else what `source` says."""
    found = source()
    known = found["source"] == "kaggle" or found.get("sha256") in ASIRRA
    return "asirra" if known and found["source"] != "synthetic" else found["source"]


def examples(count: int = 12) -> tuple[list[Path], str]:
    """Paths of `count` photos to try a model on, cats and dogs in turn, and in words what they are.

    They are test photos, which no model was trained on, or fewer if there are not as many. Without
    any photos, synthetic ones are made on the spot.
    """
    if paths.photos().exists():
        rows = splits.prepare("full", progress=False)
        tests = rows[rows.subset == "test"]
        half = -(-count // 2)
        # If one class has fewer than that, as many of each as it has.
        by_class = [
            group.sample(min(half, len(group)), random_state=0).photo
            for _, group in tests.groupby("label")
        ]
        chosen = [paths.photos() / photo for pair in zip(*by_class) for photo in pair]
        return chosen[:count], "synthetic test photos" if is_synthetic() else "test photos"
    from catsdogs.data import synthetic

    folder, rng, chosen = paths.data() / "examples", np.random.default_rng(0), []
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.mkdtemp())
    for index in range(count):
        chosen.append(folder / f"{CLASS_NAMES[index % 2]}-{index // 2 + 1}.jpg")
        synthetic.save(synthetic.draw(index % 2, rng), chosen[-1])
    return chosen, "synthetic photos made on the spot, as there are none in data/"
