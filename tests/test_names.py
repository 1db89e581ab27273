"""What a photo is, of which class, and which file a person means: told by names alone."""

import os

import pytest

from catsdogs import names, paths
from catsdogs.serving.photos import find_photos


@pytest.mark.parametrize(
    "path, label, number",
    [
        ("PetImages/Cat/17.jpg", 0, 17),
        ("train/cat.17.jpg", 0, 17),
        ("train/dogs/dog_0012.JPEG", 1, 12),
        ("DOGS/3.png", 1, 3),
        ("Dog/Dog (70).webp", 1, 70),
        ("cat/my Cat (70).jpg", 0, None),
        ("cat/IMG_0001.JPG", 0, None),
        ("cat/1234567890.jpg", 0, None),
        ("Cat/dog.1.jpg", 0, 1),  # the folder decides
        ("cats/train/dog/1.jpg", 1, 1),  # the nearest one
        ("dogs-vs-cats/train/dog.5.jpg", 1, 5),
        ("my dog project/train/cat.5.jpg", 0, 5),
        ("Cat pictures/a.jpg", 0, None),
        ("MyDog.jpg", 1, None),
        ("cats and dogs/a.jpg", None, None),
        ("concatenated/hotdogs.jpg", None, None),
        ("a/b.jpg", None, None),
        ("dogs-vs-cats/test1/17.jpg", None, 17),
        ("dog project/test/17.jpg", None, 17),
        ("test/cats/17.jpg", 0, 17),
    ],
)
def test_class_and_number(path, label, number):
    assert (names.label(path), names.number(path)) == (label, number)
    assert names.is_unlabelled(path) == ("test" in path and label is None)
    assert names.is_photo(path)


@pytest.mark.parametrize(
    "path",
    ["Cat/.1.jpg", ".cache/1.jpg", "__MACOSX/Cat/._1.jpg", "Cat/.ipynb_checkpoints/1.jpg"]
    + ["Cat/@eaDir/1.jpg", "Cat/Thumbs.db", "Cat/1.txt", "Cat/jpg", "Cat/1.jpg.part"],
)
def test_what_is_no_photo(path):
    assert not names.is_photo(path)


def test_folders_are_walked_to_any_depth_but_not_in_circles(tmp_path):
    deep = tmp_path.joinpath(*"abcdefghij" * 10)
    deep.mkdir(parents=True)
    (deep / "cat.jpg").write_bytes(b"")
    (deep / "circle").symlink_to(tmp_path)
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    found = [entry.name for entry in names.walk(tmp_path, lambda error: None)]
    assert found == ["cat.jpg"]


def test_the_path_that_a_person_means(tmp_path, monkeypatch):
    (tmp_path / "my photos (1)").mkdir()
    (tmp_path / "'quoted'.zip").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my photos (1)"
    for typed in ("~/my photos (1)", f' "{folder}" ', folder, f"{folder}{os.sep}"):
        assert paths.find(typed) == folder
    assert paths.find("my photos (1)").resolve() == folder
    assert paths.find("'quoted'.zip").name == "'quoted'.zip"
    # As in a notebook, whose folder the project's is not.
    assert paths.find("README.md") == paths.PROJECT / "README.md"
    assert paths.find("01_get_the_photos.ipynb").parent == paths.PROJECT / "notebooks"
    for typed in ("none", "~nobody/none", "a" * 5000, "nul\0"):
        with pytest.raises(FileNotFoundError, match="There is no file or folder"):
            paths.find(typed)
    with pytest.raises(FileNotFoundError, match="No path was given"):
        paths.find(" ")


def test_photos_of_several_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b.jpg", "pets/a.PNG", "pets/.ipynb_checkpoints/a.jpg", "pets/._a.jpg", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pets = tmp_path / "pets"
    assert list(find_photos("~/pets")) == list(find_photos(pets)) == [pets / "a.PNG"]
    found = list(find_photos(["~/pets", tmp_path / "c.txt", tmp_path / "none", ""]))
    assert [path.name for path in found] == ["a.PNG", "c.txt", "none", ""]
