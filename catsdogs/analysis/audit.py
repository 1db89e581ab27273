"""Find the labels that are most likely wrong: what a model that never saw a photo says against its label."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs import paths

#: Photos whose labels others found to be swapped, in this archive's names.
KNOWN_SWAPPED = (
    "Cat/4085.jpg",
    "Cat/12272.jpg",
    "Dog/2877.jpg",
    "Dog/4334.jpg",
    "Dog/10401.jpg",
    "Dog/10797.jpg",
    "Dog/11731.jpg",
)

#: The list of notebook 09, looked at photo by photo: columns ``photo``, ``verdict`` and more.
AUDITED = paths.PROJECT / "models" / "label_audit.csv"

#: Of ImageNet's 1,000 classes, counted from 0: the breeds of dogs, and cats kept at home.
IMAGENET_DOGS, IMAGENET_CATS = range(151, 269), range(281, 286)


def not_right() -> list[str]:
    """The photos that a person found to be the other animal, both, neither or unclear, as ``Cat/17.jpg``."""
    audited = pd.read_csv(AUDITED)
    return list(audited.photo[audited.verdict != "right"])


def out_of_fold(
    values, labels, groups, *, strength: float, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Probabilities of "dog", shape (photos,), each from a logistic regression that was trained without that photo.

    `values` are features, (photos, features); `groups` names the picture of each photo, so that no copy of a photo
    trains what judges it; `strength` is the regression's C.
    """
    labels, probabilities = np.asarray(labels), np.empty(len(labels))
    for train, judged in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
        values, labels, groups
    ):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
        probabilities[judged] = model.fit(values[train], labels[train]).predict_proba(
            values[judged]
        )[:, 1]
    return probabilities


def rank(rows: pd.DataFrame, probabilities) -> pd.DataFrame:
    """The photos of `rows`, which has columns ``photo`` and ``label``, the most doubtful label first.

    Adds ``probability`` of "dog", ``doubt``, the probability that the label is the other one, and ``rank``, from 1. (That
    is 1 minus what cleanlab calls self-confidence: Northcutt, Jiang and Chuang, *Confident learning*, 2021.)
    """
    probabilities = np.asarray(probabilities, float)
    table = rows.assign(
        probability=probabilities, doubt=np.where(rows.label == 1, 1 - probabilities, probabilities)
    )
    table = table.sort_values(["doubt", "photo"], ascending=[False, True], ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1))


def imagenet_shares(scores) -> pd.DataFrame:
    """How much of ImageNet's probability goes to its ``cats`` and its ``dogs``, from `scores` of shape (photos, 1000).

    Where both are small the photo may show neither.
    """
    scores = np.asarray(scores, np.float64)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    return pd.DataFrame(
        {
            "cats": shares[:, list(IMAGENET_CATS)].sum(1),
            "dogs": shares[:, list(IMAGENET_DOGS)].sum(1),
        }
    )
