"""Soft labels: label smoothing, and distillation of a pretrained network's predictions."""

import numpy as np

from catsdogs.analysis import audit
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset
from catsdogs.networks.features import FeatureSet

ops = keras.ops

#: The teacher: the backbones whose features it sees, and the inverse strength of its
#: regularization, as notebook 06 found it.
TEACHER, C = {"efficientnet-lite0": 224, "efficientnet-lite2": 260}, 0.005


def mixed(
    dataset: Dataset, smoothing: float | None = None, teacher: float | None = None
) -> np.ndarray:
    """Targets for the training set of `dataset`: float32, (photos,), probabilities of "dog".

    The share `teacher` of each is `out_of_fold`, the rest the label. `smoothing` then draws it
    towards 1/2 by that share (label smoothing: Szegedy et al., 2016, "Rethinking the Inception
    Architecture for Computer Vision", section 7).
    """
    targets: np.ndarray = dataset.train.labels.astype(np.float64)
    if teacher:
        targets = (1 - teacher) * targets + teacher * out_of_fold(dataset)
    if smoothing:
        targets = (1 - smoothing) * targets + smoothing / 2
    return targets.astype(np.float32)


def out_of_fold(dataset: Dataset) -> np.ndarray:
    """What a pretrained network predicts for the training set: probabilities of "dog", (photos,).

    It is a logistic regression on the features of `TEACHER`. For each photo, it was trained on the
    other folds of the training set, so that its predictions are as uncertain as for new photos, and
    validation and test photos play no part (Hinton, Vinyals and Dean, 2015, "Distilling the
    Knowledge in a Neural Network", for the idea).

    Raises `catsdogs.networks.torch_weights.WeightsError` where the backbones are not installed.
    """
    features = FeatureSet(dataset, TEACHER, progress=dataset.progress).train
    rows = dataset.rows[dataset.rows.subset == "train"]
    return audit.out_of_fold(features.values, features.labels, rows.group, C=C)


class Accuracy(keras.metrics.MeanMetricWrapper):
    """The share of predictions on the same side of 1/2 as the target, which may be a soft label."""

    def __init__(self, name="accuracy", **options):
        super().__init__(_same_side, name=name, **options)


def _same_side(targets, predictions):
    return ops.cast(ops.equal(targets > 0.5, predictions > 0.5), "float32")
