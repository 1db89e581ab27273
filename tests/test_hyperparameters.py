"""Mistakes in hyperparameters: each is named in one sentence, before anything is loaded."""

import math

import numpy as np
import pytest

from catsdogs import paths
from catsdogs.data.dataset import Photos
from catsdogs.networks.augment import PRESETS
from catsdogs.training import fit, hyperparameters
from catsdogs.training.hyperparameters import HyperparameterError, notes, validate

P = fit.TWO_CONV | dict(SPLIT="full", SEED=0, PRECISION="float32", CLASS_WEIGHT=None)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 16 GB of memory, whatever this one has."""
    monkeypatch.setattr(hyperparameters, "memory", lambda: 16e9)


def mistakes(changed, **settings):
    with pytest.raises(HyperparameterError) as caught:
        validate(P | changed, **settings)
    return caught.value.mistakes


@pytest.mark.parametrize(
    "network", [fit.BASELINE, fit.TWO_CONV, fit.RESIDUAL, fit.LARGE], ids=lambda p: p["NETWORK"]
)
def test_the_recipes_are_valid_and_stay_as_they_are(network):
    p = network | dict(SPLIT="full", SEED=0, PRECISION="float32")
    assert validate(p, NAME="my-run", RESUME="finished") == p


@pytest.mark.parametrize(
    "name, values",
    {
        "SPLIT": ["Full", None, 1],
        "IMAGE_SIZE": ["128", 128.0, True, None, 0, -1, 5000],
        "BATCH_SIZE": [0, -64, 2.5, "64", None, False, np.nan],
        "EPOCHS": [0, -1, 2.5, "25", True, None, np.inf],
        "LEARNING_RATE": ["0.001", 0, -1e-3, 10, np.nan, np.inf, None, True],
        "WARMUP": [1, 1.5, -0.1, "0.1", None, np.nan],
        "WEIGHT_DECAY": [-1e-4, 2, None, np.nan],
        "EMA_DECAY": [1.0, -0.1, None, True],
        "FILTERS": [64, (64,), (64, 128, 256), (0, 64), (64.0, 128), "64, 128", None, ()],
        "KERNEL_SIZES": [3, (3,), (0, 3), (3, 3, 3), (5, 2.5)],
        "STRIDES": [0, (2, 2), 1.5],
        "POOL_SIZES": [4, (0, 3), (4, 3, 2)],
        "POOL_STRIDES": [4, (0, 3), (4, 3, 2), None],
        "DENSE_UNITS": [0, 12.5, True],
        "DROPOUT": [1.0, -0.1, np.nan, "0.4", None, True],
        "WHITEN": ["no", 1, None],
        "AUGMENTATION": [
            "heavy", True, {"rotate": 10}, {"shift": 1.5}, {"shift": np.nan}, {"flip": "yes"},
            {"zoom": 0.8}, {"zoom": (1.2, 0.8)}, {"zoom": (0, 1)}, {"seed": 1}, {"size": 64},
        ],
        "CLASS_WEIGHT": ["equal", True, {0: 1.0, 1: 2.0}],
        "SEED": [-1, 0.5, 2**32, None, True, "0"],
        "PRECISION": ["float16", "bfloat16", None],
        "NETWORK": ["resnet", None],
        "MY_NUMBER": [{1, 2}, math.sqrt, np.zeros(5000), np.nan],
    }.items(),
)  # fmt: skip
def test_a_value_that_is_none_is_named_with_what_was_expected(name, values):
    for value in values:
        (sentence,) = mistakes({name: value})
        assert sentence.startswith(f"{name} is ") and "expected" in sentence, value
        assert "\n" not in sentence and len(sentence) < 300


@pytest.mark.parametrize(
    "name", ["my run/1", "", "../x", ".hidden", "a\\b", 3, None, "x" * 200, "a."]
)
def test_a_name_that_is_no_folder_is_named(name):
    (sentence,) = mistakes({}, NAME=name)
    assert sentence.startswith("NAME is ") and "such as 'my-run'" in sentence
    assert "not that of an included model" in mistakes({}, NAME=paths.DEFAULT_MODEL)[0]


def test_resume_is_one_of_three():
    for odd in ("yes", 1, None, "Finished"):
        assert mistakes({}, RESUME=odd) == [
            f"RESUME is {odd!r}: expected True, False or 'finished'."
        ]


def test_all_mistakes_are_said_at_once():
    found = mistakes({"EPOCHS": 0, "DROPOUT": 1.0, "IMAGE_SIZE": 7}, NAME="a b", RESUME="no")
    assert [sentence.split()[0] for sentence in found] == [
        "EPOCHS", "DROPOUT", "NAME", "RESUME", "IMAGE_SIZE",
    ]  # fmt: skip
    error = HyperparameterError(found)
    assert error._render_traceback_() == found  # what a notebook shows in place of a traceback
    with pytest.raises(HyperparameterError, match="EPOCHS is missing"):
        validate({key: value for key, value in P.items() if key != "EPOCHS"})


def test_numpys_numbers_and_lists_become_plain_ones():
    odd = dict(SEED=np.int64(3), LEARNING_RATE=np.float32(0.5), WHITEN=np.bool_(True))
    odd |= dict(FILTERS=np.array([33, 64]), KERNEL_SIZES=[3, 3], AUGMENTATION=None)
    plain = validate(P | odd)
    assert [plain[name] for name in odd] == [3, 0.5, True, (33, 64), (3, 3), PRESETS["none"]]
    assert [type(plain[name]) for name in odd] == [int, float, bool, tuple, tuple, dict]
    assert validate(P | {"AUGMENTATION": "strong"})["AUGMENTATION"] == PRESETS["strong"]
    assert validate(P | {"PRECISION": "auto"})["PRECISION"] in ("float32", "mixed_bfloat16")
    assert validate(P | {"MY_NUMBER": 7})["MY_NUMBER"] == 7


@pytest.mark.parametrize(
    "changed, smallest",
    [
        ({"IMAGE_SIZE": 7}, 55),
        ({"KERNEL_SIZES": (5, 31)}, 263),
        ({"POOL_SIZES": (60, 3)}, 167),
        ({"STRIDES": 100}, 2701),
        ({"NETWORK": "baseline", "IMAGE_SIZE": 8}, 10),
    ],
)
def test_kernels_and_pools_larger_than_what_reaches_them(changed, smallest):
    (sentence,) = mistakes(changed)
    assert sentence.startswith("IMAGE_SIZE ") and "too small" in sentence
    if smallest <= 2048:
        assert f"at least {smallest}" in sentence
        network = P | changed | {"IMAGE_SIZE": smallest}
        fit.training_model(validate(network))  # which would fail if one were too few
        assert mistakes(network | {"IMAGE_SIZE": smallest - 1})


def test_other_combinations_that_make_no_network():
    assert "two convolutions" in mistakes({"FILTERS": (4, 8, 16)})[0]
    assert "batch normalization" in mistakes({"BATCH_SIZE": 1})[0]
    assert "CROP_SIZE" in mistakes({"CROP_SIZE": 64})[0]
    (sentence,) = mistakes({"POOL_SIZES": (2, 3)})
    assert sentence.startswith("POOL_STRIDES is (4, 2) and POOL_SIZES (2, 3): expected")
    large = dict(IMAGE_SIZE=20, KERNEL_SIZES=(21, 3), POOL_SIZES=(1, 1), POOL_STRIDES=(1, 1))
    assert "WHITEN" in mistakes(large)[0] and validate(P | large | {"WHITEN": False})
    with pytest.raises(HyperparameterError, match="as many numbers in both"):
        validate(fit.RESIDUAL | dict(SEED=0, PRECISION="float32", BLOCKS=(1, 1)))


def test_what_needs_more_memory_than_there_is_says_how_much(monkeypatch):
    (sentence,) = mistakes({"IMAGE_SIZE": 1000})
    assert "about 26 GB" in sentence and "this machine has 16 GB" in sentence
    assert "GB" in mistakes({"BATCH_SIZE": 10_000})[0]
    dense = dict(POOL_SIZES=(1, 1), POOL_STRIDES=(1, 1), IMAGE_SIZE=512)
    assert "GB" in mistakes(dense)[0]
    assert "GB" in mistakes({"KERNEL_SIZES": (121, 5)})[0]  # PCA whitening
    monkeypatch.setattr(hyperparameters, "memory", lambda: 64e9)
    assert validate(P | {"IMAGE_SIZE": 1000})


def test_notes_before_training(monkeypatch):
    class Some:
        train = Photos(np.zeros((420, 1, 1, 3), np.uint8), np.repeat([0, 1], [400, 20]), [])

    assert notes(P | {"CLASS_WEIGHT": "balanced"}, Some) == []
    (imbalance,) = notes(P, Some)
    assert "400 cats and 20 dogs" in imbalance and "an accuracy of 95%" in imbalance
    assert 'CLASS_WEIGHT = "balanced"' in imbalance
    Some.train = Photos(Some.train.images, np.repeat([0, 1], 210), [])
    assert notes(P, Some) == []
    assert "BATCH_SIZE is 500" in notes(P | {"BATCH_SIZE": 500}, Some)[0]
