"""From a folder of files to arrays: integrity check, duplicates, splits, cache, data set."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catsdogs import paths
from catsdogs.data import cache, check, dataset, decode, duplicates, splits, store
from catsdogs.data.dataset import Dataset


def save_noise(path, seed=0, size=(64, 48)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)


def fill(folder, numbers=range(1, 21)):
    for label, name in enumerate(("Cat", "Dog")):
        for number in numbers:
            save_noise(folder / "PetImages" / name / f"{number}.jpg", seed=1000 * label + number)


def fake_table(cats, dogs, form="{}.jpg"):
    """A check's table of good photos with these numbers, without any files."""
    rows = [
        (f"{name}/{form.format(number)}", label, number if form == "{}.jpg" else -1)
        for label, (name, numbers) in enumerate((("Cat", cats), ("Dog", dogs)))
        for number in numbers
    ]
    table = pd.DataFrame(rows, columns=["photo", "label", "number"])
    return table.assign(sha256=table.photo, problem="")


NO_PAIRS = pd.DataFrame({"first": [], "second": []}, dtype=str)


def pairs(*photos):
    return pd.DataFrame(photos, columns=["first", "second"])


# --- the integrity check -------------------------------------------------------------------------


def test_corrupt_files_are_listed_with_the_reason_and_stay(empty):
    fill(empty)
    cats = empty / "PetImages" / "Cat"
    (cats / "30.jpg").write_bytes(b"")
    (cats / "31.jpg").write_text("<html>not found</html>")
    (cats / "32.jpg").write_bytes((cats / "1.jpg").read_bytes()[:900])
    (cats / "Thumbs.db").write_bytes(b"not a photo and not named like one")
    Image.new("RGB", (20, 20)).save(cats / "33.png")
    shutil.move(cats / "33.png", cats / "33.jpg")  # misnamed, and a good photo
    table = check.check_photos(progress=False)
    bad = check.quarantine(table).set_index("photo").problem
    assert set(bad.index) == {"Cat/30.jpg", "Cat/31.jpg", "Cat/32.jpg"}
    assert (
        bad["Cat/30.jpg"] == "empty file"
        and "no photo" in bad["Cat/31.jpg"]
        and "truncated" in bad["Cat/32.jpg"]
    )
    assert (cats / "30.jpg").exists() and (cats / "31.jpg").exists() and (cats / "32.jpg").exists()
    assert pd.read_csv(paths.tables() / "quarantine.csv").photo.tolist() == sorted(bad.index)
    assert not set(bad.index) & set(splits.prepare("full", progress=False).photo)


def test_only_changed_files_are_decoded_again(empty, monkeypatch):
    fill(empty, range(1, 5))
    first = check.check_photos(progress=False)
    seen = []
    examine = check._examine
    monkeypatch.setattr(
        check, "_examine", lambda folder, row: seen.append(row["photo"]) or examine(folder, row)
    )
    pd.testing.assert_frame_equal(check.check_photos(progress=False), first)
    assert seen == []
    save_noise(empty / "PetImages" / "Dog" / "2.jpg", seed=77)
    (empty / "PetImages" / "Cat" / "3.jpg").unlink()
    second = check.check_photos(progress=False)
    assert seen == ["Dog/2.jpg"] and "Cat/3.jpg" not in set(second.photo)
    assert (
        second.sha256[second.photo == "Dog/2.jpg"].item()
        != first.sha256[first.photo == "Dog/2.jpg"].item()
    )


def test_the_table_is_ordered_by_class_and_number_whatever_is_new(empty):
    fill(empty, [2, 10, 3])
    check.check_photos(progress=False)
    fill(empty, [1, 9, 30])
    (empty / "PetImages" / "Cat" / "10.jpg").unlink()
    for _ in range(2):  # decoded in part, then read
        photos = check.check_photos(progress=False).photo.tolist()
        cats = [f"Cat/{number}.jpg" for number in (1, 2, 3, 9, 30)]
        dogs = [f"Dog/{number}.jpg" for number in (1, 2, 3, 9, 10, 30)]
        assert photos == cats + dogs


def test_a_check_of_a_different_folder_leaves_the_projects_tables_alone(empty, tmp_path):
    fill(empty, range(1, 4))
    (empty / "PetImages" / "Cat" / "9.jpg").write_bytes(b"")
    check.check_photos(progress=False)
    before = {path: path.read_bytes() for path in paths.tables().iterdir()}
    elsewhere = tmp_path / "elsewhere" / "Cat"
    elsewhere.mkdir(parents=True)
    (elsewhere / "1.jpg").write_text("no photo")
    table = check.check_photos(elsewhere.parent, progress=False)
    assert len(table) == len(check.quarantine(table)) == 1
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_table_is_made_anew(empty):
    fill(empty, range(1, 4))
    first = check.check_photos(progress=False)
    for path in paths.tables().glob("photos*"):
        path.write_text("photo,label\nCat/1.jpg")
    pd.testing.assert_frame_equal(check.check_photos(progress=False), first)


def test_without_photos_the_error_says_what_to_do(empty):
    with pytest.raises(FileNotFoundError, match="download_data.sh"):
        check.check_photos(progress=False)


# --- duplicates ----------------------------------------------------------------------------------


def test_duplicates_are_found_and_other_photos_are_not(empty):
    fill(empty)
    folder = empty / "PetImages"
    original = Image.open(folder / "Cat" / "3.jpg")
    shutil.copy(folder / "Cat" / "3.jpg", folder / "Dog" / "90.jpg")
    original.save(folder / "Cat" / "91.jpg", quality=40)
    original.resize((200, 150)).save(folder / "Cat" / "92.jpg")
    original.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "Cat" / "93.jpg")
    found = duplicates.find_duplicates(check.check_photos(progress=False))
    same = {"Cat/3.jpg", "Dog/90.jpg", "Cat/91.jpg", "Cat/92.jpg", "Cat/93.jpg"}
    assert {frozenset(pair) for pair in zip(found["first"], found["second"])} == {
        frozenset(pair) for pair in itertools.combinations(same, 2)
    }
    exact = found[found.exact]
    assert (
        exact[["first", "second"]].values.tolist() == [["Cat/3.jpg", "Dog/90.jpg"]]
        and exact.labels_differ.all()
    )
    assert set(found[found.flipped].second) | set(found[found.flipped]["first"]) >= {"Cat/93.jpg"}
    assert len(found[found.flipped]) == 4


def test_groups_are_transitive():
    groups = duplicates.group_duplicates(pd.Series(list("abcde")), pairs(("a", "c"), ("c", "e")))
    assert groups[0] == groups[2] == groups[4] and len(set(groups)) == 3


# --- splits --------------------------------------------------------------------------------------


def test_full_is_80_10_10_in_each_class():
    rows = splits.split_photos(fake_table(range(12500), range(12500)), NO_PAIRS, "full")
    counts = rows.groupby(["label", "subset"]).size().unstack()
    assert (
        (counts["train"] == 10000).all()
        and (counts["val"] == 1250).all()
        and (counts["test"] == 1250).all()
    )


def test_full_depends_neither_on_order_nor_on_what_is_missing():
    whole = (
        splits.split_photos(fake_table(range(500), range(500)), NO_PAIRS).set_index("photo").subset
    )
    rng = np.random.default_rng(1)
    some = (
        fake_table(range(500), range(500)).sample(frac=0.7, random_state=rng).reset_index(drop=True)
    )
    part = splits.split_photos(some, NO_PAIRS).set_index("photo").subset
    assert (part == whole[part.index]).all() and len(part) == 700


def test_full_does_not_depend_on_the_compression(empty):
    fill(empty)
    before = splits.prepare("full", progress=False).set_index("photo").subset
    for path in (empty / "PetImages").glob("*/*.jpg"):
        Image.open(path).resize((90, 90)).save(path, quality=60)
    after = splits.prepare("full", progress=False).set_index("photo").subset
    assert (before == after).all()


def test_full_differs_between_cats_and_dogs_and_is_not_periodic():
    rows = splits.split_photos(fake_table(range(1000), range(1000)), NO_PAIRS)
    test = rows[rows.subset == "test"]
    assert set(test.number[test.label == 0]) != set(test.number[test.label == 1])
    assert len(set(test.number % 10)) == 10


def test_full_of_photos_without_a_number_depends_on_their_names_alone():
    table = fake_table(range(5000), range(5000), "IMG_{:04}.JPG")
    whole = splits.split_photos(table, NO_PAIRS).set_index("photo").subset
    shares = whole.value_counts(normalize=True)
    assert abs(shares["val"] - 0.1) < 0.01 and abs(shares["test"] - 0.1) < 0.01
    some = table.sample(frac=0.5, random_state=1).reset_index(drop=True)
    part = splits.split_photos(some, NO_PAIRS).set_index("photo").subset
    assert (part == whole[part.index]).all()
    # Beside photos with numbers, whose subset does not change, and saved anew as PNG.
    both = pd.concat([fake_table(range(500), range(500)), some], ignore_index=True)
    mixed = splits.split_photos(both, NO_PAIRS).set_index("photo").subset
    assert (mixed[part.index] == part).all()
    numbered = splits.split_photos(fake_table(range(500), range(500)), NO_PAIRS)
    assert (mixed[numbered.photo] == numbered.set_index("photo").subset).all()
    png = some.assign(photo=some.photo.str.replace(".JPG", ".png"))
    assert (splits.split_photos(png, NO_PAIRS).subset.to_numpy() == part.to_numpy()).all()


@pytest.mark.parametrize("form", ["{}.jpg", "photo {}.jpg"])
def test_full_of_a_few_photos_has_cats_and_dogs_in_each_subset(form):
    for count in (3, 4, 7, 12, 24):
        for start in (1, 700, 4321):
            numbers = range(start, start + 7 * count, 7)
            rows = splits.split_photos(fake_table(numbers, numbers, form), NO_PAIRS)
            counts = rows.groupby(["label", "subset"]).size()
            assert len(counts) == 6 and len(rows) == 2 * count
    # Copies of one picture stay together all the same.
    table = fake_table(range(12), range(12), form)
    same = pairs(*itertools.pairwise(table.photo[table.label == 0][:9]))
    rows = splits.split_photos(table, same)
    assert len(set(rows.subset[:9])) == 1 and len(rows.groupby(["label", "subset"])) == 6


def test_the_published_split_is_as_it_was():
    rows = splits.split_photos(fake_table(range(12500), range(12500)), NO_PAIRS, "full")
    assert splits.fingerprint(rows) == "3d856cbe99e1b57f"
    rows = splits.split_photos(fake_table(range(12500), range(12500)), NO_PAIRS, "baseline-8000")
    assert splits.fingerprint(rows) == "6e206f01d5316a9a"


def test_every_image_in_a_class_folder_is_a_photo_and_the_rest_is_listed(empty):
    cats = empty / "PetImages" / "Cat"
    names = ["1.jpeg", "2.png", "3.JPG", "my Cat (70).jpg", 'a "b", c.webp', "ü.bmp"]
    for index, name in enumerate(names):
        save_noise(cats / name, seed=index)
    shutil.copytree(cats, empty / "PetImages" / "dogs")
    for name in (".DS_Store", "._1.jpg", ".ipynb_checkpoints/1.jpg", "Thumbs.db"):
        (cats / name).parent.mkdir(exist_ok=True)
        (cats / name).write_bytes(b"")
    (cats / "notes.txt").write_bytes(b"")
    (cats / "two\nlines.jpg").write_bytes(b"")
    for _ in range(2):  # checked, then read
        table = check.check_photos(progress=False)
        assert sorted(table.photo[table.label == 0]) == sorted(f"Cat/{name}" for name in names)
        assert table.number[table.photo.isin(["Cat/1.jpeg", "dogs/3.JPG"])].tolist() == [1, 3]
        assert (table.problem == "").all() and len(table) == 12
    assert store.find_photos(paths.photos())[1] == ["Cat/notes.txt", "Cat/two\nlines.jpg"]
    (note,) = check.notes(table)
    assert note.startswith("Left out: 2 files") and note.endswith("such as Cat/notes.txt.")


def test_imbalanced_classes_are_noted(empty):
    table = fake_table(range(400), range(20))
    (note,) = check.notes(table)
    assert "400 cats and 20 dogs" in note and "always predicts cat has an accuracy of 95%" in note
    assert check.notes(fake_table(range(40), range(50))) == []


def test_baseline_8000():
    rows = splits.split_photos(fake_table(range(12500), range(12500)), NO_PAIRS, "baseline-8000")
    test = rows[rows.subset == "test"]
    assert (
        sorted(test.number[test.label == 0])
        == list(range(4001, 5001))
        == sorted(test.number[test.label == 1])
    )
    other = rows[rows.subset != "test"]
    assert sorted(other.number[other.label == 1]) == list(range(1, 4001))
    assert abs((other.subset == "val").mean() - 0.1) < 0.002


def test_duplicates_go_to_one_subset():
    table = fake_table(range(200), range(200))
    where = splits.split_photos(table, NO_PAIRS).set_index("photo").subset
    first = where[where == "test"].index[0]
    others = [where[where == subset].index[5] for subset in ("train", "val")]
    rows = (
        splits.split_photos(table, pairs((first, others[0]), (others[0], others[1])))
        .set_index("photo")
        .subset
    )
    assert len({rows[photo] for photo in (first, *others)}) == 1


def test_baseline_8000_keeps_its_test_set_and_drops_duplicates_of_it():
    table = fake_table(range(1, 5001), range(1, 5001))
    rows = splits.split_photos(
        table, pairs(("Cat/5.jpg", "Cat/4500.jpg")), "baseline-8000"
    ).set_index("photo")
    assert rows.subset["Cat/4500.jpg"] == "test" and "Cat/5.jpg" not in rows.index
    assert (rows.subset == "test").sum() == 2000


@pytest.mark.parametrize(
    "column, value", [("photo", "Cat/1.jpg"), ("sha256", "same"), ("group", 7)]
)
def test_data_leakage_is_an_error(column, value):
    rows = pd.DataFrame(
        {
            "photo": ["Cat/1.jpg", "Cat/2.jpg"],
            "sha256": ["a", "b"],
            "group": [0, 1],
            "subset": ["train", "test"],
        }
    )
    splits.assert_no_overlap(rows)
    with pytest.raises(ValueError, match="more than one subset"):
        splits.assert_no_overlap(rows.assign(**{column: value}))


def test_too_few_photos_and_unknown_splits_say_so():
    with pytest.raises(ValueError, match="1 to 5000"):
        splits.split_photos(fake_table(range(1, 241), range(1, 241)), NO_PAIRS, "baseline-8000")
    with pytest.raises(ValueError, match="baseline-8000"):
        splits.split_photos(fake_table(range(100), range(100)), NO_PAIRS, "half")
    with pytest.raises(ValueError, match="no dog"):
        splits.split_photos(fake_table(range(100), []), NO_PAIRS)


def test_the_fingerprint_tells_photos_and_subsets_apart():
    rows = splits.split_photos(fake_table(range(100), range(100)), NO_PAIRS)
    other = rows.assign(subset=rows.subset.replace({"val": "test"}))
    changed = rows.assign(sha256=["x", *rows.sha256[1:]])
    assert len({splits.fingerprint(r) for r in (rows, other, changed)}) == 3
    assert splits.fingerprint(rows) == splits.fingerprint(rows.copy())


# --- arrays --------------------------------------------------------------------------------------


def cached():
    return sorted(paths.arrays().glob("*.npy"))


def load(size=16):
    table = check.check_photos(progress=False)
    return cache.load_pixels(list(table.photo), list(table.sha256), size, progress=False)


def test_arrays_are_made_once_and_mapped(empty, monkeypatch):
    fill(empty, range(1, 6))
    pixels = load()
    assert (
        pixels.shape == (10, 16, 16, 3)
        and pixels.dtype == np.uint8
        and isinstance(pixels, np.memmap)
    )
    monkeypatch.setattr(decode, "decode", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(load(), pixels)
    assert not pixels.flags.writeable


def test_a_changed_photo_a_different_size_or_resizing_is_a_different_cache(empty, monkeypatch):
    fill(empty, range(1, 6))
    before = np.array(load())
    save_noise(empty / "PetImages" / "Cat" / "2.jpg", seed=500)
    after = load()
    assert not np.array_equal(after[1], before[1]) and np.array_equal(
        after[[0, 2, 3]], before[[0, 2, 3]]
    )
    assert len(cached()) == 1  # the one that nothing asks for any more is gone
    load(8)
    assert len(cached()) == 2
    key = cache._key(["a"], ["b"], 8)
    monkeypatch.setattr(cache, "RESIZING", "another way")
    assert cache._key(["a"], ["b"], 8) != key


@pytest.mark.parametrize(
    "damage",
    ["cut short", "one byte", "a failing disk", "note gone", "note damaged", "shape", "empty"],
)
def test_a_damaged_cache_is_never_used(empty, damage):
    fill(empty, range(1, 6))
    good = np.array(load())
    (path,) = cached()
    content = bytearray(path.read_bytes())
    note = path.with_suffix(".json")
    if damage == "cut short":
        path.write_bytes(content[:-500])
    elif damage == "one byte":
        content[-700] ^= 1
        path.write_bytes(content)
    elif damage == "a failing disk":  # which changes neither the size nor the modification time
        before = path.stat()
        with open(path, "rb+") as file:
            file.seek(-700, os.SEEK_END)
            file.write(bytes([content[-700] ^ 16]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
            before.st_size,
            before.st_mtime_ns,
            before.st_ino,
        )
    elif damage == "note gone":
        note.unlink()
    elif damage == "note damaged":
        note.write_text("{")
    elif damage == "shape":
        np.save(path, good[:5])
    else:
        path.write_bytes(b"")
    assert np.array_equal(load(), good)


def test_a_killed_write_is_never_seen(empty):
    fill(empty, range(1, 41))
    code = (
        "import time; from catsdogs.data import cache, check, checked\n"
        "decode = checked.decode_one\n"
        "def slow(*a):\n"
        "    print('.\\n', end='', flush=True)\n"
        "    time.sleep(0 if 'Cat' in str(a[0]) else 60)\n"
        "    return decode(*a)\n"
        "checked.decode_one = slow\n"
        "t = check.check_photos(progress=False)\n"
        "cache.load_pixels(list(t.photo), list(t.sha256), 16, progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=paths.PROJECT
    )
    for _ in range(41):  # all cats and the first dog, at which it sleeps
        assert process.stdout.readline() == b".\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cached() == [] and len(list(paths.arrays().iterdir())) == 1
    assert load().any(axis=(1, 2, 3)).all()
    assert {path.suffix for path in paths.arrays().iterdir()} == {".npy", ".json"}


@pytest.mark.parametrize("size", [0, -3, 1.5, "64", True, 10**6])
def test_sizes_that_make_no_sense(empty, size):
    fill(empty, range(1, 3))
    with pytest.raises(ValueError, match="whole number"):
        load(size)


# --- the data set --------------------------------------------------------------------------------


def test_images_labels_and_names_belong_together(synthetic):
    opened = Dataset("full", 24, progress=False)
    train, val, test = opened.train, opened.val, opened.test
    for photos in (train, val, test):
        assert photos.images.shape == (len(photos), 24, 24, 3) and photos.images.dtype == np.uint8
        assert [name.startswith("Dog") for name in photos.names] == photos.labels.astype(
            bool
        ).tolist()
        for name, image in zip(photos.names, photos.images):
            assert np.array_equal(image, decode.decode(paths.photos() / name, 24))
        assert (
            not photos.images.flags.owndata and not photos.images.flags.writeable
        )  # mapped, not copied
    assert (
        not set(train.names) & set(val.names)
        | set(train.names) & set(test.names)
        | set(val.names) & set(test.names)
    )
    assert dataset.is_synthetic() and opened.describe()["source"] == "synthetic"


def test_all_splits_share_one_cache_and_photos_can_be_left_out(empty):
    fill(empty, [*range(1, 41), *range(4001, 4011)])
    full = Dataset("full", 8, progress=False)
    whole = {name: full.train.images[i] for i, name in enumerate(full.train.names)}
    out = full.train.names[3]
    less = Dataset("full", 8, leave_out=[out, full.val.names[0]], progress=False)
    assert less.train.names == [name for name in full.train.names if name != out]
    assert less.val.names == full.val.names and less.fingerprint != full.fingerprint
    assert all(np.array_equal(whole[n], i) for n, i in zip(less.train.names, less.train.images))
    other = Dataset("baseline-8000", 8, progress=False)
    for photos in (other.train, other.val, other.test):
        for name, image in zip(photos.names, photos.images):
            assert np.array_equal(image, decode.decode(paths.photos() / name, 8))
    assert len(cached()) == 1


@pytest.mark.skipif(
    "CATSDOGS_TEST_ARCHIVE" not in os.environ,
    reason="CATSDOGS_TEST_ARCHIVE names no archive of real photos",
)
def test_real_photos_as_a_user_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path))
    subprocess.run(
        ["bash", paths.PROJECT / "download_data.sh", "zip", os.environ["CATSDOGS_TEST_ARCHIVE"]],
        check=True,
    )
    started = time.monotonic()
    table = check.check_photos(progress=False)
    assert len(table) >= 500 and (table.problem == "").mean() > 0.99
    assert table.width.max() <= 1050 and table.width.nunique() > 20
    opened = Dataset("full", 64, progress=False)
    train = opened.train
    assert 0.7 < len(train) / len(table) < 0.9 and 40 < train.images.mean() < 200
    assert not dataset.is_synthetic()
    print(f"{len(table)} real photos prepared in {time.monotonic() - started:.1f} s")
