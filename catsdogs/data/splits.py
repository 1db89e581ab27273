"""The two predefined, deterministic splits into training, validation and test set."""

import hashlib
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from catsdogs import CLASS_NAMES, paths
from catsdogs.data import check, duplicates, tables
from catsdogs.data.checked import PhotosChanged

#: The predefined splits, and the subsets that each divides the photos into.
SPLITS = ("full", "baseline-8000")
SUBSETS = ("train", "val", "test")


def split_photos(table: pd.DataFrame, pairs: pd.DataFrame, split: str = "full") -> pd.DataFrame:
    """The subset of every good photo: training, validation or test set.

    `table` is `catsdogs.data.check.check_photos`', `pairs` is
    `catsdogs.data.duplicates.find_duplicates`'. Returns one row per photo: ``photo``, ``label``,
    ``number``, ``sha256``, ``subset`` (one of `SUBSETS`) and ``group`` (equal for duplicates).

    - ``full``: 80% training, 10% validation, 10% test. Of each ten consecutive numbers of a class,
      one is in the validation set and one in the test set, chosen by a hash of the class and the
      ten. So the split is stratified by class, and a photo's subset depends on nothing but which
      photo it is: not on the order of files, on files that are missing, on photos that are added,
      or on how the archive was compressed. Kaggle's archive, Microsoft's and a resized one are
      split alike, so a test photo never becomes a training photo elsewhere. (A hash of the file's
      bytes would fail at the last.) A photo without a number is in the validation set or in the
      test set with a probability of 10% each, by a hash of its class and its name. Where a subset
      would be left without cats or without dogs, as happens with a few photos, it gets one from
      the largest.
    - ``baseline-8000``: of each class, numbers 1 to 4000 are for training and 4001 to 5000 are the
      test set, as in the baseline recipe that many repositories share; of each ten of the 8,000,
      one is held out for validation.

    Duplicates always end up in one subset, so that none leaks from the training set into the test
    set: under ``full`` in that of the first of them; under ``baseline-8000``, whose test set is
    given, copies of a test photo are left out of the training and the validation set.

    Raises `ValueError` for an unknown split, or if a subset has no cats or no dogs.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known: choose one of {', '.join(SPLITS)}")
    columns = ["photo", "label", "number", "sha256"]
    rows = table.loc[table.problem == "", columns].reset_index(drop=True)
    rows["group"] = duplicates.group_duplicates(rows.photo, pairs)
    if split == "baseline-8000":
        rows = rows[rows.number.between(1, 5000)].reset_index(drop=True)
    subset = _subsets(split, rows)
    if split == "baseline-8000":
        test = SUBSETS.index("test")
        kept = (subset == test) | ~rows.group.isin(rows.group[subset == test])
        rows, subset = rows[kept].reset_index(drop=True), subset[kept]
    # Duplicates follow the first of them; groups are numbered from 0, some of them are gone.
    groups, first, of = np.unique(rows.group, return_index=True, return_inverse=True)
    subset = subset[first][of]
    if split == "full":
        subset = _filled(subset, rows)
    for index, name in enumerate(SUBSETS):
        for label, animal in enumerate(CLASS_NAMES):
            if not ((subset == index) & (rows.label == label)).any():
                advice = (
                    "It needs photos numbered 1 to 5000: use 'full' with fewer."
                    if split == "baseline-8000"
                    else "It needs at least three different photos of each class."
                )
                raise ValueError(
                    f"split {split!r} found no {animal} photos for {name!r} "
                    f"among {len(rows):,} good photos. {advice}"
                )
    rows.insert(4, "subset", np.array(SUBSETS)[subset])
    assert_no_overlap(rows)
    return rows


def assert_no_overlap(rows: pd.DataFrame) -> None:
    """Raise `ValueError` if a photo, a file's content or a group of duplicates is in two subsets.

    `rows` has the columns ``photo``, ``sha256``, ``group`` and ``subset``.
    """
    subset = pd.factorize(rows.subset)[0]
    for column in ("photo", "sha256", "group"):
        value, names = pd.factorize(rows[column])
        _, first = np.unique(value, return_index=True)
        if (elsewhere := subset != subset[first][value]).any():
            leaked = names[value[elsewhere][0]]
            raise ValueError(f"{column} {leaked!r} is in more than one subset")


def prepare(split: str = "full", *, progress: bool = True) -> pd.DataFrame:
    """Check the photos of ``data/PetImages``, find duplicates, split; return `split_photos`' table.

    Also writes it to ``data/tables/SPLIT.csv``. What has been computed before for the same photos
    is read, not computed again.
    """
    rows = split_photos(*open_photos(progress=progress), split)
    write_split(rows, split)
    return rows


def open_photos(*, progress: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of the project's photos: `check.check_photos`' and that of `known_duplicates`."""
    table = check.check_photos(progress=progress)
    while True:
        try:
            return table, known_duplicates(table)
        except PhotosChanged as changed:  # since they were checked, in this moment or before
            print(f"Checked again: {changed}")
            table = check.check_photos(again=changed.photos, progress=progress)


def known_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """`find_duplicates` of `catsdogs.data.duplicates` for the project's photos, cached on disk.

    The table is in ``data/tables``, under a name with a hash of the photos and of the limits: for
    different ones it is made anew.
    """
    limits = f"{duplicates.MAX_HASH_DISTANCE} {duplicates.MIN_CORRELATION}"
    key = _digest(map("".join, zip(table.photo, table.sha256)), limits)[:12]
    path = paths.tables() / f"duplicates-v3-{key}.csv"
    pairs = tables.read(path, duplicates.COLUMNS)
    if pairs is None:
        pairs = duplicates.find_duplicates(table)
        tables.write(pairs, path)
    return pairs


def write_split(rows: pd.DataFrame, split: str) -> None:
    """Write the table of `split_photos` to ``data/tables/SPLIT.csv``."""
    tables.write_plain(rows, paths.tables() / f"{split}.csv")


def fingerprint(rows: pd.DataFrame) -> str:
    """16 hexadecimal digits that differ whenever a photo's content or its subset differs."""
    return _digest(map("".join, zip(rows.photo, rows.sha256, rows.subset)))[:16]


def _subsets(split, rows):
    """The subset of each photo as its position in `SUBSETS`, by which photo it is alone."""
    numbers = rows.number.to_numpy()
    tens, places = np.divmod(numbers, 10)
    keys, of = np.unique(np.stack([rows.label, tens]), axis=1, return_inverse=True)
    of = of.reshape(-1)  # in NumPy 2.0.0 alone it has two axes
    # Of each ten numbers of a class, which is in the validation and which in the test set.
    val, test = np.array([_val_and_test(*key) for key in keys.T.tolist()]).reshape(-1, 2)[of].T
    if split == "baseline-8000":
        return np.select([numbers > 4000, places == val], [2, 1], 0)
    unnumbered = numbers < 0
    places[unnumbered] = _hashes(rows[unnumbered]) % 10
    val[unnumbered], test[unnumbered] = 0, 1
    return np.select([places == val, places == test], [1, 2], 0)


def _filled(subset, rows):
    """`subset` with a group of photos moved to each one that a class is missing from.

    It comes from the largest subset of that class, and is the group of the photo whose hash is the
    lowest: this depends on no order either.
    """
    subset = subset.copy()
    for label in range(len(CLASS_NAMES)):
        for index in range(len(SUBSETS)):
            mine = (rows.label == label).to_numpy()
            if not mine.any() or (mine & (subset == index)).any():
                continue
            largest = np.bincount(subset[mine]).argmax()
            spare = rows[mine & (subset == largest)]
            if spare.group.nunique() > 1:
                lowest = np.argmin(_hashes(spare))
                subset[rows.group == spare.group.iloc[lowest]] = index
    return subset


def _hashes(rows):
    """A number of 64 bits per photo, any of them equally likely, by its class and its name."""
    described = [
        f"{CLASS_NAMES[label]} {PurePosixPath(photo).stem.lower()}"
        for label, photo in zip(rows.label, rows.photo)
    ]
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in described]
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def _val_and_test(label, ten):
    digest = hashlib.blake2b(f"{CLASS_NAMES[label]} {ten}".encode(), digest_size=2).digest()
    val = digest[0] % 10
    return val, (val + 1 + digest[1] % 9) % 10


def _digest(lines, extra=""):
    return hashlib.sha256("\n".join([extra, *lines]).encode()).hexdigest()
