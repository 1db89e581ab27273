"""Tables and arrays that are damaged, photos that change, disks that are full or read-only."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catsdogs import paths
from catsdogs.data import cache, check, dataset, download, duplicates, splits, store, tables
from catsdogs.data.checked import PhotosChanged
from catsdogs.data.dataset import Dataset


def save_noise(path, seed):
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC).save(path, quality=92)


@pytest.fixture
def photos(empty):
    """40 photos."""
    for label, name in enumerate(("Cat", "Dog")):
        for number in range(1, 21):
            save_noise(empty / "PetImages" / name / f"{number}.jpg", 1000 * label + number)
    return empty / "PetImages"


def damage(path):
    """Change the content of a file, but neither its size nor its modification time."""
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- tables --------------------------------------------------------------------------------------

TYPES = {"photo": str, "number": "int64", "score": "float64", "good": bool}
TABLE = pd.DataFrame(
    {
        "photo": ["Cat/1.jpg", 'a "b", #c\nÄ.jpg', "NA", ""],
        "number": [1, -(2**62), 3, 4],
        "score": [0.1 + 0.2, 1e-300, -0.0, 1.0],
        "good": [True, False, True, True],
    }
)


@pytest.mark.parametrize("table", [TABLE, TABLE[:0].astype(TYPES)], ids=["rows", "no rows"])
def test_a_table_reads_back_as_it_was(tmp_path, table):
    tables.write(table, tmp_path / "a.csv")
    pd.testing.assert_frame_equal(tables.read(tmp_path / "a.csv", TYPES), table, check_exact=True)


def test_a_table_that_is_not_as_it_was_written_is_not_read(tmp_path):
    path = tmp_path / "a.csv"
    tables.write(TABLE, path)
    content = path.read_bytes()
    for length in range(len(content)):  # cut short, wherever
        path.write_bytes(content[:length])
        assert tables.read(path, TYPES) is None
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        assert tables.read(path, TYPES) is None
    for odd in (
        content + b"Cat/2.jpg,2,0.5,True\n",
        content[content.index(b"\n") + 1 :],
        b"\0\xff",
    ):
        path.write_bytes(odd)
        assert tables.read(path, TYPES) is None
    path.write_bytes(content)
    assert tables.read(path, TYPES) is not None and tables.read(path, {"photo": str}) is None
    assert tables.read(path.rename(tmp_path / "b.csv"), TYPES) is None  # it is of other photos
    assert tables.read(path, TYPES) is None


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_copies_stay_in_one_subset_whatever_is_left_of_the_tables(photos, lines):
    for number in range(21, 31):
        save_noise(photos / "Cat" / f"{number}.jpg", number)
    before = splits.prepare("full", progress=False).set_index("photo").subset
    original = before.index[before == "train"][0]
    for number, subset in enumerate(("val", "test"), 1):  # in place of photos of other subsets
        copy = before.index[before == subset][0]
        Image.open(photos / original).save(photos / copy, quality=70 + number)
    expected = splits.prepare("full", progress=False)
    assert expected.group.nunique() == len(expected) - 2
    for path in paths.tables().iterdir():
        path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:lines]))
    pd.testing.assert_frame_equal(splits.prepare("full", progress=False), expected)
    for path in paths.tables().iterdir():
        path.write_bytes(b"\xff\0")
    pd.testing.assert_frame_equal(splits.prepare("full", progress=False), expected)


def test_duplicates_of_unknown_photos_are_an_error():
    pairs = pd.DataFrame({"first": ["a"], "second": ["z"]})
    with pytest.raises(ValueError, match="duplicates a and z: at least one is not among"):
        duplicates.group_duplicates(pd.Series(["a", "b"]), pairs)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"crc32": "x"}', b"\xff", b"1"])
def test_an_array_whose_note_is_odd_is_made_anew(photos, content):
    good = np.array(Dataset("full", 8, progress=False).train.images)
    (note,) = paths.arrays().glob("*.json")
    note.write_bytes(content)
    assert np.array_equal(Dataset("full", 8, progress=False).train.images, good)


def test_an_array_of_other_photos_under_its_name_is_not_used(photos):
    table = check.check_photos(progress=False)
    names, contents = list(table.photo), list(table.sha256)
    cats = cache.load_pixels(names[:20], contents[:20], 8, progress=False)
    kept = {path.suffix: path.read_bytes() for path in paths.arrays().iterdir()}
    dogs = np.array(cache.load_pixels(names[20:], contents[20:], 8, progress=False))
    assert cats.shape == dogs.shape and not np.array_equal(cats, dogs)
    for path in paths.arrays().iterdir():
        path.write_bytes(kept[path.suffix])
    found = cache.load_pixels(names[20:], contents[20:], 8, progress=False)
    assert np.array_equal(found, dogs)


# --- photos that change after they were checked --------------------------------------------------


@pytest.mark.parametrize("how", ["damaged", "gone", "replaced", "a folder"])
def test_a_photo_that_changes_after_the_check_is_named_and_left_out(photos, how, capsys):
    opened = Dataset("full", 8, progress=False)
    before, names = opened.fingerprint, list(opened.rows.photo)
    photo = opened.rows.photo[opened.rows.subset == "train"].iloc[0]
    if how == "damaged":
        damage(photos / photo)
    else:
        (photos / photo).unlink()
    if how == "replaced":
        save_noise(photos / photo, 5000)
    elif how == "a folder":
        (photos / photo).mkdir()
    train, val, test = opened.train, opened.val, opened.test
    assert f"{photo} was good when it was checked, and is left out now" in capsys.readouterr().out
    assert sorted([*train.names, *val.names, *test.names, photo]) == sorted(names)
    assert len(train) == len(train.images) == opened.describe()["photos"]["train"]
    assert opened.fingerprint != before
    again = Dataset("full", 8, progress=False)  # which takes a good photo that replaced another
    assert (photo in again.train.names) == (how == "replaced") and not capsys.readouterr().out
    assert how == "replaced" or again.fingerprint == opened.fingerprint


def test_a_photo_that_is_damaged_before_duplicates_are_searched_is_checked_again(photos):
    shutil.copy(photos / "Cat" / "3.jpg", photos / "Dog" / "90.jpg")
    table = check.check_photos(progress=False)
    damage(photos / "Dog" / "90.jpg")
    with pytest.raises(PhotosChanged, match="^Dog/90.jpg: damaged: "):
        splits.known_duplicates(table)
    assert "Dog/90.jpg" not in set(splits.prepare("full", progress=False).photo)


def test_if_too_many_photos_vanish_it_says_so(photos):
    opened = Dataset("full", 8, progress=False)
    for photo in opened.rows.photo[opened.rows.subset == "val"]:
        (photos / photo).unlink()
    with pytest.raises(ValueError, match="4 photos in .*PetImages were changed or removed"):
        opened.train


# --- where the photos came from ------------------------------------------------------------------

ODD = [None, b"", b"[]", b"[" * 100_000, b'{"source": 7}', b'{"source": ["zip"]}', b"\xff\0", b"{"]


@pytest.mark.parametrize("content", ODD)
def test_without_a_record_photos_are_never_taken_for_asirra(photos, content):
    paths.source_file().unlink()
    if content is not None:
        paths.source_file().write_bytes(content)
    assert not dataset.is_synthetic() and dataset.source()["source"] == "unknown"
    assert Dataset("full", 8, progress=False).describe()["source"] == "unknown"
    assert store.read_record() == {}


@pytest.mark.parametrize(
    ("record", "source"),
    [
        ({"source": "zip", "sha256": download.MICROSOFT_SHA256}, "asirra"),
        ({"source": "microsoft", "sha256": download.MICROSOFT_SHA256}, "asirra"),
        ({"source": "microsoft", "sha256": "of another archive"}, "microsoft"),
        ({"source": "kaggle", "sha256": "which varies"}, "asirra"),
        ({"source": "zip", "sha256": "of one's own photos"}, "zip"),
        ({"source": "by hand", "sha256": None}, "by hand"),
        ({"source": "drawn"}, "synthetic"),
    ],
)
def test_a_run_record_names_the_photos_as_they_are_known(photos, record, source):
    paths.source_file().write_text(json.dumps(record))
    assert Dataset("full", 8, progress=False).describe()["source"] == source


@pytest.mark.parametrize("content", [*ODD, b'{"source": "kaggle"}'])
def test_synthetic_photos_say_so_themselves(synthetic_data, tmp_path, monkeypatch, content):
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path))
    shutil.copytree(synthetic_data / "PetImages", paths.photos())
    if content is not None:
        paths.source_file().write_bytes(content)
    assert dataset.is_synthetic()
    assert Dataset("full", 8, progress=False).describe()["source"] == "synthetic"
    download.download("synthetic")  # adopts what is there
    assert store.read_record()["source"] == "synthetic"


@pytest.mark.parametrize("killed_before", range(5))
def test_at_no_moment_do_synthetic_photos_pass_for_real(
    synthetic_data, tmp_path, monkeypatch, killed_before
):
    """Real photos were here once: their record is. Synthetic ones, without marks, are moved in."""
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path))
    monkeypatch.setattr(store, "looks_synthetic", lambda: False)
    store.write_record(paths.source_file(), {"source": "kaggle", "photos": {"Cat": 3, "Dog": 3}})
    shutil.copytree(synthetic_data / "PetImages", store.staging() / "PetImages")
    left = killed_before

    def dying(step):
        def run(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return step(*arguments)

        return run

    with monkeypatch.context() as patched:
        for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree")):
            patched.setattr(module, name, dying(getattr(module, name)))
        try:
            store.commit({"source": "synthetic", "photos": store.counts(store.staging())})
        except KeyboardInterrupt:
            pass
    assert dataset.is_synthetic() or not paths.photos().exists()
    store.finish()
    assert paths.photos().exists() == (killed_before >= 2) == dataset.is_synthetic()


# --- disks that are full or read-only ------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MB, mounted at a folder: returned are the folder and how to remount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.getuid() != 0 or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)


def read_only(photos, disk, folder):
    """Make ``data/FOLDER`` one that cannot be written to."""
    mounted, remount = disk
    if (photos.parent / folder).exists():
        shutil.copytree(photos.parent / folder, mounted, dirs_exist_ok=True)
        shutil.rmtree(photos.parent / folder)
    (photos.parent / folder).symlink_to(mounted)
    remount("ro")


def test_arrays_that_do_not_fit_are_said_in_a_sentence_before_any_is_decoded(photos, disk):
    (photos.parent / "arrays").symlink_to(disk[0])
    code = (
        "from catsdogs import files\n"
        "from catsdogs.data import cache, checked, dataset\n"
        "checked.decode_one = None\n"  # not called
        "try:\n"
        "    dataset.Dataset('full', 128, progress=False).train\n"
        "except files.DiskFullError as error:\n"
        "    print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.PROJECT
    )
    assert run.returncode == 0, run  # -7 is SIGBUS
    assert "No space left on device" in run.stdout and "make room" in run.stdout
    assert len(run.stdout.splitlines()) == 1 and not list(disk[0].iterdir())


def test_tables_that_do_not_fit_are_done_without(photos, disk, capsys):
    (photos.parent / "tables").symlink_to(disk[0])
    (disk[0] / "full").write_bytes(bytes(2**20))
    rows = splits.prepare("full", progress=False)
    said = capsys.readouterr().out
    assert len(rows) == 40 and said.count("cannot be written to (No space left on device)") == 1
    assert list(disk[0].iterdir()) == [disk[0] / "full"]


def test_prepared_data_can_be_used_where_it_is_read_only(photos, disk, capsys):
    expected = Dataset("full", 8, progress=False)
    images = np.array(expected.train.images)
    for folder in ("tables", "arrays"):
        shutil.move(photos.parent / folder, disk[0] / folder)
        (photos.parent / folder).symlink_to(disk[0] / folder)
    disk[1]("ro")
    opened = Dataset("full", 8, progress=False)
    assert np.array_equal(opened.train.images, images)
    assert opened.fingerprint == expected.fingerprint and not capsys.readouterr().out


def test_where_arrays_cannot_be_kept_they_are_made_for_this_process(photos, disk, capsys):
    images = np.array(Dataset("full", 8, progress=False).train.images)
    shutil.rmtree(paths.arrays())
    read_only(photos, disk, "arrays")
    train = Dataset("full", 8, progress=False).train
    assert np.array_equal(train.images, images) and not train.images.flags.writeable
    assert "cannot be written to (Read-only file system)" in capsys.readouterr().out


def test_where_tables_cannot_be_kept_they_are_made_each_time(photos, disk, capsys):
    expected = splits.prepare("full", progress=False)
    shutil.rmtree(paths.tables())
    read_only(photos, disk, "tables")
    for _ in range(2):
        pd.testing.assert_frame_equal(splits.prepare("full", progress=False), expected)
    assert capsys.readouterr().out.count("Read-only file system") == 1


def test_examples_are_made_where_data_is_read_only(disk, monkeypatch):
    disk[1]("ro")
    monkeypatch.setenv("CATSDOGS_DATA", str(disk[0]))
    chosen, _ = dataset.examples(2)
    assert [path.exists() for path in chosen] == [True, True]
