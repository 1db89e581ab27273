"""Decide which photos train, validate and test: the two protocols, written out as tables."""

import hashlib

import pandas as pd

from catsdogs import CLASS_NAMES, check, duplicates, paths

PROTOCOLS = ("full", "seed-8000")
SPLITS = ("train", "val", "test")


def split_photos(table: pd.DataFrame, pairs: pd.DataFrame, protocol: str = "full") -> pd.DataFrame:
    """The split of every good photo: columns ``photo``, ``label``, ``number``, ``sha256``, ``split``, ``group``.

    `table` is `catsdogs.check.check_photos`', `pairs` is `catsdogs.duplicates.find_duplicates`'.

    - ``full``: 80% train, 10% val, 10% test. Of each ten consecutive numbers of a class, one is for
      validation and one for test, chosen by a hash of the class and the ten. So the split is
      stratified, and a photo's place depends on nothing but which photo it is: not on the order of
      files, on files that are missing, on photos that are added, or on how the archive was
      compressed. Kaggle's archive, Microsoft's and a shrunk one are split alike, so photos that tested
      a model once never train it elsewhere. (A hash of a file's bytes would fail at the last.)
    - ``seed-8000``: of each class, numbers 1–4000 train and 4001–5000 test, as in the recipe many
      repositories share; of each ten of the 8,000, one is held back for validation.

    Duplicates always end in one split: under ``full`` in that of the first of them; under ``seed-8000``,
    whose test photos are given, copies of a test photo are left out of training and validation.

    Raises `ValueError` for an unknown protocol, or where a split has no cats or no dogs.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is not known: choose one of {', '.join(PROTOCOLS)}")
    rows = table.loc[table.problem == "", ["photo", "label", "number", "sha256"]].reset_index(drop=True)
    rows["group"] = duplicates.group_duplicates(rows.photo, pairs)
    if protocol == "seed-8000":
        rows = rows[rows.number.between(1, 5000)].reset_index(drop=True)
    rows["split"] = [_place(protocol, label, number) for label, number in zip(rows.label, rows.number)]
    if protocol == "seed-8000":
        tested = rows.group.isin(rows.group[rows.split == "test"])
        rows = rows[(rows.split == "test") | ~tested].reset_index(drop=True)
    rows["split"] = rows.groupby("group").split.transform("first")
    counts = rows.groupby(["split", "label"]).size()
    for split in SPLITS:
        for label, name in enumerate(CLASS_NAMES):
            if counts.get((split, label), 0) == 0:
                raise ValueError(
                    f"protocol {protocol!r} found no {name} photos for {split!r} among {len(rows):,} good photos. "
                    + ("It needs photos numbered 1 to 5000: use 'full' with fewer." if protocol == "seed-8000"
                       else "It needs at least ten consecutive numbers of each class.")
                )
    assert_no_overlap(rows)
    return rows[["photo", "label", "number", "sha256", "split", "group"]]


def assert_no_overlap(rows: pd.DataFrame) -> None:
    """Raise `ValueError` where a photo, a file's content or a group of duplicates is in two splits."""
    for column in ("photo", "sha256", "group"):
        splits = rows.groupby(column).split.nunique()
        if (splits > 1).any():
            raise ValueError(f"{column} {splits[splits > 1].index[0]!r} is in more than one split")


def prepare(protocol: str = "full", *, progress: bool = True) -> pd.DataFrame:
    """Check the photos of ``data/PetImages``, find duplicates, split; return `split_photos`' table.

    Also writes it to ``data/tables/PROTOCOL.csv``. What has been computed before for the same photos is
    read, not computed again.
    """
    table = check.check_photos(progress=progress)
    rows = split_photos(table, known_duplicates(table), protocol)
    check.write_table(rows, paths.tables() / f"{protocol}.csv")
    return rows


def known_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """`find_duplicates` of the project's photos, kept in ``data/tables`` for as long as they are the same."""
    limits = f"{duplicates.MAX_HASH_DISTANCE} {duplicates.MIN_CORRELATION}"
    path = paths.tables() / f"duplicates-{_digest(table.photo + table.sha256, limits)[:12]}.csv"
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        pairs = duplicates.find_duplicates(table)
        check.write_table(pairs, path)
        return pairs


def fingerprint(rows: pd.DataFrame) -> str:
    """16 hexadecimal digits that differ whenever a photo's content or its split differs."""
    return _digest(rows.photo + rows.sha256 + rows.split)[:16]


def _place(protocol, label, number):
    if protocol == "seed-8000" and number > 4000:
        return "test"
    ten, place = divmod(number, 10)
    digest = hashlib.blake2b(f"{CLASS_NAMES[label]} {ten}".encode(), digest_size=2).digest()
    val = digest[0] % 10
    test = (val + 1 + digest[1] % 9) % 10
    if place == val:
        return "val"
    return "test" if place == test and protocol == "full" else "train"


def _digest(lines, extra=""):
    return hashlib.sha256("\n".join([extra, *lines]).encode()).hexdigest()
