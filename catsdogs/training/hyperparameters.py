"""Validates hyperparameters before anything is loaded: one sentence per mistake, all at once."""

import json
import math
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from catsdogs import backend, paths
from catsdogs.data.check import imbalance
from catsdogs.data.dataset import Dataset
from catsdogs.data.splits import SPLITS
from catsdogs.networks.augment import PRESETS
from catsdogs.networks.cnn import NETWORKS
from catsdogs.training.control import TrainingError

#: The share of a machine's memory that training may take: the rest is for everything else.
MEMORY_SHARE = 0.8
#: Images per batch in validation, where no gradients have to be kept.
VALIDATION_BATCH_SIZE = 256

_MAX_SIZE = 2048  # pixels per side, of a cache of photos
_WHITENED_PATCHES = 40_000


class HyperparameterError(TrainingError):
    """Hyperparameters that nothing can be trained with: ``mistakes``, one sentence each."""

    def __init__(self, mistakes: list[str]):
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def validate(hyperparameters: dict, **settings) -> dict:
    """`hyperparameters` as a run record has them, if a network can be trained with them.

    A NumPy number becomes a plain one, a preset of data augmentation its strengths, the precision
    ``"auto"`` the faster one. Hyperparameters that are not known here are left as they are, if a
    run record can hold them. `settings` are what is no part of a run but can be wrong too:
    ``NAME`` and ``RESUME``.

    Raises `HyperparameterError` with every mistake: wrong types, values out of range, and
    combinations that make no network, or one that this machine has too little memory for.
    """
    plain, mistakes = {}, {}
    for name, value in {**hyperparameters, **settings}.items():
        try:
            plain[name] = _RULES.get(name, _recordable)(_plain(value))
        except _ExpectedError as expected:
            mistakes[name] = f"{name} is {_shown(value)}: expected {expected}."
    for name in _required(hyperparameters):
        if name not in hyperparameters:
            mistakes[name] = f"{name} is missing."
    combined = [] if _COMBINED & set(mistakes) else _combinations(plain)
    if mistakes or combined:
        raise HyperparameterError([*mistakes.values(), *combined])
    return {name: plain[name] for name in hyperparameters}


def notes(hyperparameters: dict, dataset: Dataset) -> list[str]:
    """What is worth knowing before training on `dataset`, one sentence each; most often nothing.

    That is a batch larger than the training set, and classes of unequal size.
    """
    labels, batch_size = dataset.train.labels, hyperparameters["BATCH_SIZE"]
    found = []
    if batch_size > len(labels):
        found.append(
            f"BATCH_SIZE is {batch_size:,} and there are {len(labels):,} training photos: every "
            "epoch is a single step. A smaller BATCH_SIZE learns more from as many epochs."
        )
    if not hyperparameters.get("CLASS_WEIGHT"):
        found.append(imbalance(labels))
    return list(filter(None, found))


# --- single values --------------------------------------------------------------------------------


class _ExpectedError(Exception):
    """What a rule expects, in words; raised for anything else."""


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def rule(value):
        if type(value) is not int or not low <= value <= high:
            raise _ExpectedError(f"a whole number from {low:,} to {high:,}{_unquoted(value)}")
        return value

    return rule


def _number(words: str, fits: Callable[[float], bool]) -> Callable[[Any], float]:
    def rule(value):
        if type(value) not in (int, float) or not math.isfinite(value) or not fits(value):
            raise _ExpectedError(f"a number {words}{_unquoted(value)}")
        return value

    return rule


def _pair(one: Callable[[Any], int], example: str) -> Callable[[Any], tuple]:
    def rule(value):
        if not isinstance(value, tuple) or len(value) != 2:
            raise _ExpectedError(f"two whole numbers, one per convolution, such as {example}")
        try:
            return tuple(one(part) for part in value)
        except _ExpectedError as expected:
            raise _ExpectedError(f"two numbers, each {expected}") from None

    return rule


def _one_of(*options) -> Callable[[Any], Any]:
    def rule(value):
        if not any(type(value) is type(option) and value == option for option in options):
            *others, last = map(repr, options)
            raise _ExpectedError(f"{', '.join(others)} or {last}")
        return value

    return rule


def _filters(value):
    """Of each convolution; networks of residual blocks have one number per stage."""
    one = _whole(1, 4096)
    if not isinstance(value, tuple) or not value:
        raise _ExpectedError("a whole number per convolution, such as (64, 128)")
    return tuple(one(part) for part in value)


def _augmentation(value):
    """The strengths: `PRESETS` by name, None for none."""
    if value is None or (isinstance(value, str) and value in PRESETS):
        return dict(PRESETS[value or "none"])
    if not isinstance(value, dict):
        raise _ExpectedError(
            f"a dictionary of strengths, or one of {', '.join(map(repr, PRESETS))}"
        )
    for key, strength in value.items():
        if key not in _STRENGTHS:
            raise _ExpectedError(f"{', '.join(map(repr, _STRENGTHS))} only, not {key!r}")
        try:
            _STRENGTHS[key](strength)
        except _ExpectedError as expected:
            raise _ExpectedError(f"{key!r} to be {expected}") from None
    return value


def _zoom(value):
    """Of `catsdogs.networks.augment.RandomAugmentation`: the smallest and the largest crop."""
    positive = _number("above 0 and up to 4", lambda x: 0 < x <= 4)
    if not isinstance(value, tuple) or len(value) != 2 or positive(value[0]) > positive(value[1]):
        raise _ExpectedError("two numbers, the smaller one first, such as (0.8, 1.0)")
    return value


def _precision(value):
    chosen = _one_of("auto", "float32", "mixed_bfloat16")(value)
    return backend.faster_precision() if chosen == "auto" else chosen


def _name(value):
    try:
        folder = paths.model_folder(value)
    except (TypeError, ValueError):
        raise _ExpectedError(
            "up to 100 letters, digits, hyphens, underscores and dots, such as 'my-run'"
        ) from None
    if folder.parent == paths.included():
        raise _ExpectedError("a name of your own, not that of an included model")
    return value


def _recordable(value):
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise _ExpectedError(
            "numbers, text, lists or dictionaries, which a run record can hold; write a name that "
            "is not to be recorded in small letters"
        ) from None
    return value


_share = _number("from 0 to below 1", lambda x: 0 <= x < 1)
_flag = _one_of(True, False)
_STRENGTHS: dict[str, Callable[[Any], Any]] = {
    "flip": _flag,
    "shift": _share,
    "zoom": _zoom,
    "lighting": _share,
    "color": _share,
}
_RULES: dict[str, Callable[[Any], Any]] = {
    "NETWORK": _one_of(*NETWORKS),
    "SPLIT": _one_of(*SPLITS),
    "IMAGE_SIZE": _whole(1, _MAX_SIZE),
    "CROP_SIZE": _whole(16, _MAX_SIZE),
    "FIRST_CROP_SIZE": _whole(16, _MAX_SIZE),
    "BATCH_SIZE": _whole(1, 1_000_000),
    "EPOCHS": _whole(1, 100_000),
    "OPTIMIZER": _one_of("adam", "adamw"),
    "LEARNING_RATE": _number("above 0 and up to 1", lambda x: 0 < x <= 1),
    "WARMUP": _share,
    "WEIGHT_DECAY": _number("from 0 to 1", lambda x: 0 <= x <= 1),
    "BIAS_MULTIPLIER": _number("above 0 and up to 1,000", lambda x: 0 < x <= 1000),
    "LABEL_SMOOTHING": _share,
    "SOFT_LABELS": _number("from 0 to 1", lambda x: 0 <= x <= 1),
    "EMA_DECAY": _share,
    "KEEP": _one_of("best", "last"),
    "FILTERS": _filters,
    "STEM_FILTERS": _whole(1, 4096),
    "BLOCKS": _filters,
    "KERNEL_SIZES": _pair(_whole(1, 255), "(5, 5)"),
    "STRIDES": _whole(1, 255),
    "POOL_SIZES": _pair(_whole(1, 255), "(4, 3)"),
    "POOL_STRIDES": _pair(_whole(1, 255), "(4, 2)"),
    "DENSE_UNITS": _whole(1, 1_000_000),
    "DROPOUT": _share,
    "STOCHASTIC_DEPTH": _share,
    "ACTIVATION": _one_of("relu", "leaky_relu", "gelu", "silu"),
    "SOFTMAX": _flag,
    "WHITEN": _flag,
    "AUGMENTATION": _augmentation,
    "CLASS_WEIGHT": _one_of("balanced", None),
    "LEAVE_OUT": _flag,
    "SEED": _whole(0, 2**32 - 1),
    "PRECISION": _precision,
    "NAME": _name,
    "RESUME": _one_of(True, False, "finished"),
}


def _plain(value):
    """`value` with NumPy's numbers as Python's, and lists and arrays as tuples."""
    if isinstance(value, np.generic) or isinstance(value, np.ndarray) and value.size < 1000:
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _shown(value) -> str:
    """`value` as it was written, on one line, and not too much of it."""
    value = _plain(value)
    return reprlib.repr(value) if not isinstance(value, dict) else repr(value)[:200]


def _unquoted(value) -> str:
    return ", without quotation marks" if isinstance(value, str) else ""


def _required(p: dict) -> list[str]:
    """The hyperparameters without which `catsdogs.training.fit` cannot train."""
    always = ["BATCH_SIZE", "EPOCHS", "SEED", "PRECISION"]
    if "NETWORK" in p:
        always += ["IMAGE_SIZE", "AUGMENTATION"]
    return always + ["LEARNING_RATE", "WARMUP", "WEIGHT_DECAY"] * (p.get("OPTIMIZER") != "adam")


# --- combinations ---------------------------------------------------------------------------------


#: Where one of these is wrong, nothing can be said of how they combine.
_COMBINED = {
    *("NETWORK", "IMAGE_SIZE", "CROP_SIZE", "BATCH_SIZE", "FILTERS", "BLOCKS", "KERNEL_SIZES"),
    *("STRIDES", "POOL_SIZES", "POOL_STRIDES", "DENSE_UNITS", "WHITEN", "FIRST_CROP_SIZE"),
    *("SOFTMAX", "LABEL_SMOOTHING", "SOFT_LABELS"),
}


def _combinations(p: dict) -> list[str]:
    """The mistakes that only several values together make."""
    checks = {"two_conv": _two_conv, "baseline": _baseline, "residual": _residual}
    mistakes = checks[p["NETWORK"]](p) if "NETWORK" in p else []
    soft = [name for name in ("LABEL_SMOOTHING", "SOFT_LABELS") if p.get(name)]
    if soft and p.get("SOFTMAX"):
        mistakes.append(
            f"SOFTMAX is True and {soft[0]} {p[soft[0]]}: expected one of the two, since two "
            "softmax units are trained on labels that are whole numbers."
        )
    return mistakes


def _baseline(p):
    return _too_small(p, lambda size: ((size - 2) // 2 - 2) // 2 > 0) + _fixed_size(p)


def _residual(p):
    if p.get("FIRST_CROP_SIZE", 0) > p.get("CROP_SIZE", p["IMAGE_SIZE"]):
        return [
            f"FIRST_CROP_SIZE is {p['FIRST_CROP_SIZE']} and the crops of the last epochs have "
            f"{p.get('CROP_SIZE', p['IMAGE_SIZE'])} pixels per side: expected at most as many."
        ]
    if len(p.get("BLOCKS", (1, 1, 1, 1))) != len(p.get("FILTERS", (1, 1, 1, 1))):
        return [
            f"FILTERS is {p.get('FILTERS')} and BLOCKS {p.get('BLOCKS')}: expected as many "
            "numbers in both, one per stage."
        ]
    return []


def _two_conv(p):
    p = _TWO_CONV_DEFAULTS | p
    if len(p["FILTERS"]) != 2:
        return [
            f"FILTERS is {p['FILTERS']}: expected two numbers, since the network has two "
            "convolutions; give a third one a hyperparameter of its own."
        ]
    mistakes = _fixed_size(p)
    if p["BATCH_SIZE"] < 2:
        mistakes.append(
            "BATCH_SIZE is 1: expected 2 or more, since batch normalization compares the images "
            "of a batch."
        )
    if any(stride > size for stride, size in zip(_pool_strides(p), p["POOL_SIZES"], strict=True)):
        mistakes.append(
            f"POOL_STRIDES is {p['POOL_STRIDES']} and POOL_SIZES {p['POOL_SIZES']}: expected "
            "strides no larger than the sizes, since nothing would look at what lies between."
        )
    mistakes += _too_small(p, lambda size: min(_sides(p | {"IMAGE_SIZE": size})) > 0)
    if p.get("WHITEN") and p["KERNEL_SIZES"][0] > p["IMAGE_SIZE"]:
        mistakes.append(
            f"KERNEL_SIZES is {p['KERNEL_SIZES']} and IMAGE_SIZE {p['IMAGE_SIZE']}: expected a "
            "first kernel no larger than the images, whose patches WHITEN makes it from."
        )
    return mistakes or _too_large(p)


#: The arguments of `catsdogs.networks.cnn.two_conv` that a run may leave out.
_TWO_CONV_DEFAULTS = dict(
    FILTERS=(64, 192), KERNEL_SIZES=(5, 5), STRIDES=2, POOL_SIZES=(4, 3), DENSE_UNITS=128
)


def _fixed_size(p):
    return [
        f"{name} is {p[name]} and IMAGE_SIZE {p['IMAGE_SIZE']}: expected the same, since "
        f"the network {p['NETWORK']} takes images of one size only."
        for name in ("CROP_SIZE", "FIRST_CROP_SIZE")
        if p.get(name, p["IMAGE_SIZE"]) != p["IMAGE_SIZE"]
    ]


def _too_small(p, fits):
    if fits(p["IMAGE_SIZE"]):
        return []
    names = ("KERNEL_SIZES", "STRIDES", "POOL_SIZES", "POOL_STRIDES")
    used = [name for name in names if name in p]
    values = f" for {', '.join(f'{name} {p[name]}' for name in used)}" if used else ""
    smallest = next((size for size in range(1, _MAX_SIZE + 1) if fits(size)), None)
    advice = f"expected at least {smallest}" if smallest else "no IMAGE_SIZE is large enough"
    return [
        f"IMAGE_SIZE {p['IMAGE_SIZE']} is too small{values}: nothing would be left of an image "
        f"behind them; {advice}{', or smaller ones of these' if used else ''}."
    ]


def _sides(p) -> tuple[int, int, int, int]:
    """Pixels per side behind each convolution and each pooling of `cnn.two_conv`."""
    first = math.ceil(p["IMAGE_SIZE"] / p["STRIDES"])
    sizes = p["POOL_SIZES"]
    strides = _pool_strides(p)
    pooled = (first - sizes[0]) // strides[0] + 1
    second = pooled - p["KERNEL_SIZES"][1] + 1
    return first, pooled, second, (second - sizes[1]) // strides[1] + 1


def _pool_strides(p) -> tuple[int, int]:
    return p.get("POOL_STRIDES") or p["POOL_SIZES"]


def _too_large(p):
    needed, there = memory_needed(p), memory()
    if needed <= MEMORY_SHARE * there:
        return []
    names = ("IMAGE_SIZE", "BATCH_SIZE", "FILTERS", "KERNEL_SIZES", "DENSE_UNITS")
    values = ", ".join(f"{name} {p[name]}" for name in names)
    return [
        f"Training would take about {needed / 1e9:,.0f} GB of memory, and this machine has "
        f"{there / 1e9:,.0f} GB: expected smaller numbers than {values}."
    ]


def memory_needed(hyperparameters: dict) -> float:
    """Bytes of memory that training `cnn.two_conv` takes, roughly, beside the libraries."""
    p = _TWO_CONV_DEFAULTS | hyperparameters
    first, pooled, second, last = _sides(p)
    (narrow, wide), kernels = p["FILTERS"], p["KERNEL_SIZES"]
    pixels, inputs = 3 * p["IMAGE_SIZE"] ** 2, wide * last**2
    # Pooling is followed by batch normalization and ReLU, whose outputs are as large.
    largest = narrow * (first**2 + pooled**2)
    activations = pixels + largest + 2 * narrow * pooled**2 + wide * second**2 + 3 * inputs
    # Each has a gradient, and data augmentation makes four copies of the images.
    training = p["BATCH_SIZE"] * (2 * activations + 4 * pixels)
    validation = VALIDATION_BATCH_SIZE * (2 * pixels + largest)
    values = 3 * kernels[0] ** 2  # of a patch
    whitening = p.get("WHITEN", False) * (3 * _WHITENED_PATCHES * values + 6 * values**2)
    weights = values * narrow + kernels[1] ** 2 * narrow * wide + inputs * p["DENSE_UNITS"]
    # Weights, gradients, two moments of Adam, the EMA, and copies for the checkpoint.
    return 4.0 * (max(training, validation, whitening) + 8 * weights)


def memory() -> float:
    """Bytes of memory that training can have: the GPU's are not known, and not limited here."""
    return math.inf if backend.gpus() else float(psutil.virtual_memory().total)
