"""The synthetic sample: deterministic, varied, and told apart by shape alone."""

import numpy as np
import pytest
from PIL import Image

from catsdogs import CLASS_NAMES
from catsdogs.data import store, synthetic
from catsdogs.parallel import map_in_threads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    assert synthetic.write(folder, per_class=12, progress=False) == 24
    return folder


@pytest.fixture(scope="module")
def mean_colors():
    """(300, 3): the mean red, green and blue of images of cats, dogs, cats, dogs ..."""

    def mean_color(number):
        photo = synthetic.draw(number % 2, np.random.default_rng([1, number]))
        return np.asarray(photo, np.float64).mean((0, 1))

    return np.stack(list(map_in_threads(mean_color, range(300), chunk=4)))


def test_writes_jpeg_photos_of_both_classes(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["Cat", "Dog"]
    for name in ("Cat", "Dog"):
        files = sorted((folder / name).iterdir(), key=lambda path: int(path.stem))
        assert [path.name for path in files] == [f"{number}.jpg" for number in range(1, 13)]
        for file in files:
            with Image.open(file) as photo:
                assert photo.format == "JPEG" and photo.mode == "RGB"
                assert 200 <= min(photo.size) and max(photo.size) <= 320


def test_each_says_of_itself_that_it_is_synthetic(folder, tmp_path):
    assert all(store.is_marked(file) for file in folder.glob("*/*.jpg"))
    file = next(folder.glob("*/*.jpg"))
    with Image.open(file) as photo:
        assert photo.info["comment"] == store.SYNTHETIC_MARK
        photo.save(tmp_path / "unmarked.jpg", comment=b"")
    assert not store.is_marked(tmp_path / "unmarked.jpg") and not store.is_marked(tmp_path / "none")


def test_sizes_and_shapes_vary(folder):
    sizes = [Image.open(file).size for file in folder.glob("*/*.jpg")]
    assert len(set(sizes)) > 12
    ratios = [width / height for width, height in sizes]
    assert min(ratios) < 0.95 and max(ratios) > 1.05


def test_no_two_photos_are_alike(folder):
    small = np.stack(
        [
            np.asarray(Image.open(file).convert("L").resize((16, 16)), np.float64).ravel()
            for file in sorted(folder.glob("*/*.jpg"))
        ]
    )
    distances = np.abs(small[:, None] - small[None]).mean(-1)
    assert distances[np.triu_indices(len(small), 1)].min() > 5


def test_a_photo_depends_on_seed_class_and_number_alone(folder, tmp_path):
    synthetic.write(tmp_path / "fewer", per_class=3, progress=False)
    synthetic.write(tmp_path / "other", per_class=3, seed=1, progress=False)
    for name in ("Cat", "Dog"):
        for number in (1, 2, 3):
            expected = (folder / name / f"{number}.jpg").read_bytes()
            assert (tmp_path / "fewer" / name / f"{number}.jpg").read_bytes() == expected
            assert (tmp_path / "other" / name / f"{number}.jpg").read_bytes() != expected


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)))
def test_draw_is_deterministic(label):
    first, second = (synthetic.draw(label, np.random.default_rng(5)) for _ in range(2))
    assert first.size == second.size and first.tobytes() == second.tobytes()


def test_the_mean_color_does_not_predict_the_class(mean_colors):
    x = (mean_colors - mean_colors.mean(0)) / mean_colors.std(0)
    x = np.column_stack([np.ones(len(x)), x])
    y = np.arange(len(x)) % 2
    fold = np.arange(len(x)) // 2 % 5
    right = 0
    for k in range(5):
        weights = logistic_regression(x[fold != k], y[fold != k])
        right += ((x[fold == k] @ weights > 0) == y[fold == k]).sum()
    assert right / len(y) < 0.65


def test_the_classes_differ_in_shape():
    """The same random numbers give a cat and a dog that differ."""
    cat, dog = (synthetic.draw(label, np.random.default_rng(3)) for label in (0, 1))
    assert cat.size == dog.size
    assert np.abs(np.asarray(cat, np.float64) - np.asarray(dog, np.float64)).mean() > 3


def logistic_regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights (n,) of the logistic regression of y (0 or 1) on x (m, n), by Newton's method."""
    weights = np.zeros(x.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-x @ weights))
        weights += np.linalg.solve(
            (x.T * (p * (1 - p))) @ x + 1e-6 * np.eye(x.shape[1]), x.T @ (y - p)
        )
    return weights
