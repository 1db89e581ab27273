"""Figures: each function draws one and returns it, in one style.

A legend stands below its axes, where no line can run through it, and a figure of synthetic photos
says so in a strip of its own. What cannot be drawn, such as the ROC curve of a single class, is
said in its place.
"""

from catsdogs.analysis.plots.comparison import accuracy_against_time, speedups
from catsdogs.analysis.plots.evaluation import (
    calibration,
    confusion_matrix,
    label_error_probabilities,
    roc_and_precision_recall,
    threshold,
)
from catsdogs.analysis.plots.photos import filters, photo_grid, sizes
from catsdogs.analysis.plots.style import close, to_png
from catsdogs.analysis.plots.training import curves, learning_rate, regularization_curve

__all__ = [
    "accuracy_against_time",
    "calibration",
    "close",
    "confusion_matrix",
    "curves",
    "filters",
    "label_error_probabilities",
    "learning_rate",
    "photo_grid",
    "regularization_curve",
    "roc_and_precision_recall",
    "sizes",
    "speedups",
    "threshold",
    "to_png",
]
