"""Which photos train, validate and test: the two predefined, deterministic splits, written out as tables."""

import hashlib

import numpy as np
import pandas as pd

from catsdogs import CLASS_NAMES, paths
from catsdogs.data import check, duplicates

#: The predefined splits, and what each divides the photos into: training, validation and test set.
SPLITS = ("full", "baseline-8000")
SUBSETS = ("train", "val", "test")


def split_photos(table: pd.DataFrame, pairs: pd.DataFrame, split: str = "full") -> pd.DataFrame:
    """The subset of every good photo: columns ``photo``, ``label``, ``number``, ``sha256``, ``subset``, ``group``.

    `table` is `catsdogs.data.check.check_photos`', `pairs` is `catsdogs.data.duplicates.find_duplicates`'.

    - ``full``: 80% training, 10% validation, 10% test. Of each ten consecutive numbers of a class, one is
      in the validation set and one in the test set, chosen by a hash of the class and the ten. So the split
      is stratified, and a photo's subset depends on nothing but which photo it is: not on the order of
      files, on files that are missing, on photos that are added, or on how the archive was compressed.
      Kaggle's archive, Microsoft's and a shrunk one are split alike, so photos that tested a model once
      never train it elsewhere. (A hash of a file's bytes would fail at the last.)
    - ``baseline-8000``: of each class, numbers 1 to 4000 train and 4001 to 5000 test, as in the baseline recipe
      that many repositories share; of each ten of the 8,000, one is held out for validation.

    Duplicates always end up in one subset: under ``full`` in that of the first of them; under ``baseline-8000``,
    whose test photos are given, copies of a test photo are left out of training and validation.

    Raises `ValueError` for an unknown split, or where a subset has no cats or no dogs.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known: choose one of {', '.join(SPLITS)}")
    rows = table.loc[table.problem == "", ["photo", "label", "number", "sha256"]].reset_index(
        drop=True
    )
    rows["group"] = duplicates.group_duplicates(rows.photo, pairs)
    if split == "baseline-8000":
        rows = rows[rows.number.between(1, 5000)].reset_index(drop=True)
    rows["subset"] = _subsets(split, rows.label, rows.number)
    if split == "baseline-8000":
        tested = rows.group.isin(rows.group[rows.subset == "test"])
        rows = rows[(rows.subset == "test") | ~tested].reset_index(drop=True)
    rows["subset"] = rows.groupby("group").subset.transform("first")
    counts = rows.groupby(["subset", "label"]).size()
    for subset in SUBSETS:
        for label, name in enumerate(CLASS_NAMES):
            if counts.get((subset, label), 0) == 0:
                raise ValueError(
                    f"split {split!r} found no {name} photos for {subset!r} among {len(rows):,} good photos. "
                    + (
                        "It needs photos numbered 1 to 5000: use 'full' with fewer."
                        if split == "baseline-8000"
                        else "It needs at least ten consecutive numbers of each class."
                    )
                )
    assert_no_overlap(rows)
    return rows[["photo", "label", "number", "sha256", "subset", "group"]]


def assert_no_overlap(rows: pd.DataFrame) -> None:
    """Raise `ValueError` where a photo, a file's content or a group of duplicates is in two subsets."""
    for column in ("photo", "sha256", "group"):
        pairs = rows[[column, "subset"]].drop_duplicates()
        if (twice := pairs[column].duplicated()).any():
            raise ValueError(
                f"{column} {pairs[column][twice].iloc[0]!r} is in more than one subset"
            )


def prepare(split: str = "full", *, progress: bool = True) -> pd.DataFrame:
    """Check the photos of ``data/PetImages``, find duplicates, split; return `split_photos`' table.

    Also writes it to ``data/tables/SPLIT.csv``. What has been computed before for the same photos is
    read, not computed again.
    """
    table = check.check_photos(progress=progress)
    rows = split_photos(table, known_duplicates(table), split)
    check.write_table(rows, paths.tables() / f"{split}.csv")
    return rows


def known_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """`find_duplicates` of the project's photos, kept in ``data/tables`` for as long as they are the same."""
    limits = f"{duplicates.MAX_HASH_DISTANCE} {duplicates.MIN_CORRELATION}"
    path = paths.tables() / f"duplicates-v2-{_digest(table.photo + table.sha256, limits)[:12]}.csv"
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        pairs = duplicates.find_duplicates(table)
        check.write_table(pairs, path)
        return pairs


def fingerprint(rows: pd.DataFrame) -> str:
    """16 hexadecimal digits that differ whenever a photo's content or its subset differs."""
    return _digest(rows.photo + rows.sha256 + rows.subset)[:16]


def _subsets(split, labels, numbers):
    """The subset of each photo, by its class and number alone."""
    tens, places = np.divmod(numbers.to_numpy(), 10)
    # Of each ten photos of a class, which is in the validation and which in the test set.
    chosen = {key: _val_and_test(*key) for key in set(zip(labels, tens))}
    found = []
    for label, ten, place, number in zip(labels, tens, places, numbers):
        val, test = chosen[label, ten]
        if split == "baseline-8000":
            found.append("test" if number > 4000 else "val" if place == val else "train")
        else:
            found.append("val" if place == val else "test" if place == test else "train")
    return found


def _val_and_test(label, ten):
    digest = hashlib.blake2b(f"{CLASS_NAMES[label]} {ten}".encode(), digest_size=2).digest()
    val = digest[0] % 10
    return val, (val + 1 + digest[1] % 9) % 10


def _digest(lines, extra=""):
    return hashlib.sha256("\n".join([extra, *lines]).encode()).hexdigest()
