"""Find label errors: compare each label with a prediction of a model not trained on that photo."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs import paths
from catsdogs.analysis.compare import interval, percent
from catsdogs.analysis.metrics import evaluate

#: Photos of this archive whose labels have been reported as swapped.
KNOWN_SWAPPED = (
    "Cat/4085.jpg",
    "Cat/12272.jpg",
    "Dog/2877.jpg",
    "Dog/4334.jpg",
    "Dog/10401.jpg",
    "Dog/10797.jpg",
    "Dog/11731.jpg",
)

#: The manual review of notebook 09's list: columns ``rank``, ``photo``, ``label``, ``probability``
#: and ``verdict``.
REVIEWED = paths.PROJECT / "models" / "label_audit.csv"

#: Indices of ImageNet's 1,000 classes, from 0: the dog breeds, and the domestic cats.
IMAGENET_DOGS, IMAGENET_CATS = range(151, 269), range(281, 286)


def review() -> pd.DataFrame:
    """The manual review of the photos with the highest label-error probability, one row per photo.

    ``verdict`` is ``"wrong"`` (the photo shows the other class), ``"both"``, ``"neither"``
    (out-of-distribution), ``"unclear"`` or ``"right"``; the other columns are those of `rank`.
    """
    return pd.read_csv(REVIEWED)


def label_issues() -> list[str]:
    """Photos, such as ``Cat/17.jpg``, whose label the manual review did not confirm."""
    reviewed = review()
    return list(reviewed.photo[reviewed.verdict != "right"])


def classifier(C: float):  # noqa: N803 (scikit-learn's name)
    """The classifier of `out_of_fold`: standardized features, then a logistic regression.

    `C` is its inverse regularization strength.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=5000))


def out_of_fold(
    values,
    labels,
    groups,
    *,
    C: float,  # noqa: N803 (scikit-learn's name)
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Out-of-fold probabilities of "dog", shape (photos,), by cross-validation.

    Each is the prediction of a `classifier` trained on the other folds, none of which has that
    photo or a copy of it. `values` are features, (photos, features); `groups`, (photos,), is equal
    for copies of a photo, which are kept within one fold; `C` is the inverse regularization
    strength. `seed` shuffles the photos before they are assigned to folds. There are at most as
    many folds as the smaller class has groups, so that few photos can be predicted too.

    Raises `ValueError` for a class with fewer than two groups.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    smaller = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    if smaller < 2:
        raise ValueError(
            f"{smaller} different photos of one class: cross-validation takes at least two of each"
        )
    folds = min(folds, smaller)
    return cross_val_predict(
        classifier(C),
        values,
        labels,
        groups=groups,
        cv=StratifiedGroupKFold(folds, shuffle=True, random_state=seed),
        method="predict_proba",
    )[:, 1]


def rank(rows: pd.DataFrame, probabilities) -> pd.DataFrame:
    """The photos of `rows`, with columns ``photo`` and ``label``, by label-error probability.

    Adds ``probability``, the out-of-fold probability of "dog"; ``label_error_probability``, which
    is the probability of the class that the label does not name; and ``rank``, from 1 for the
    highest. The label-error probability is 1 minus the self-confidence of confident learning
    (Northcutt, Jiang and Chuang, 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels").
    """
    probabilities = np.asarray(probabilities, float)
    table = rows.assign(
        probability=probabilities,
        label_error_probability=np.where(rows.label == 1, 1 - probabilities, probabilities),
    )
    table = table.sort_values(
        ["label_error_probability", "photo"], ascending=[False, True], ignore_index=True
    )
    return table.assign(rank=np.arange(1, len(table) + 1))


def effect_of_leaving_out(
    train,
    val,
    photos: Collection[str],
    *,
    C: float,  # noqa: N803 (scikit-learn's name)
) -> pd.DataFrame:
    """A table of two `classifier`: trained on all of `train`, and without `photos`.

    `train` and `val` are `catsdogs.networks.features.Features`. Both classifiers are evaluated on
    all of `val`: validation accuracy and log loss, with 95% confidence intervals.
    """
    rows = []
    for training_set, keep in (
        ("all photos", np.full(len(train.labels), True)),
        ("without the label issues", ~np.isin(train.names, list(photos))),
    ):
        model = classifier(C).fit(train.values[keep], train.labels[keep])
        found = evaluate(val.labels, model.predict_proba(val.values)[:, 1])
        accuracy, log_loss = found["accuracy"], found["log_loss"]
        rows.append(
            {
                "training set": training_set,
                "photos": f"{keep.sum():,}",
                "validation accuracy (95% CI)": f"{percent(accuracy)} ({interval(accuracy)})",
                "log loss (95% CI)": f"{log_loss['value']:.4f} "
                f"({log_loss['low']:.4f} to {log_loss['high']:.4f})",
            }
        )
    return pd.DataFrame(rows)


def imagenet_shares(logits) -> pd.DataFrame:
    """The probability an ImageNet classifier gives to all its ``cats`` and to all its ``dogs``.

    `logits` has shape (photos, 1000); the table has one row per photo. If both are low, the photo
    may be out-of-distribution: neither a cat nor a dog.
    """
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    return pd.DataFrame(
        {
            "cats": shares[:, list(IMAGENET_CATS)].sum(1),
            "dogs": shares[:, list(IMAGENET_DOGS)].sum(1),
        }
    )
