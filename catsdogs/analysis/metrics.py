"""How good predictions are: the usual measures, each with an interval that says how sure it is."""

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics

#: Bins of `calibration_error`, as in Guo et al. (2017), "On Calibration of Modern Neural Networks".
CALIBRATION_BINS = 15
#: How far from 0 and 1 `best_clip` may keep probabilities.
CLIPS = (1e-7, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 2e-2)


def evaluate(labels, probabilities, *, threshold: float = 0.5, resamples: int = 1000) -> dict:
    """Measures of `probabilities` of "dog", shape (photos,) or (photos, 1), against `labels`, shape (photos,).

    "dog" is the positive class; a photo is called a dog where its probability is above `threshold`,
    as Keras's own accuracy has it. Every measure is a dictionary of ``value``, ``low`` and ``high``,
    the ends of a 95% interval:

    - ``accuracy``, ``precision``, ``recall``: Wilson's score interval
    - ``f1``, ``roc_auc``, ``average_precision``, ``log_loss``, ``brier`` (mean squared error),
      ``calibration_error``: the middle 95% of `resamples` bootstrap samples, seeded

    Besides: ``photos``, ``threshold`` and ``confusion``, [[cats called cat, cats called dog],
    [dogs called cat, dogs called dog]]. A precision that has no photos called "dog" is None.

    Raises `ValueError` for other shapes, or labels of one class only.
    """
    labels = np.asarray(labels).astype(int)
    probabilities = np.asarray(probabilities, float).reshape(-1)
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(
            f"labels of shape {labels.shape} and {probabilities.size} probabilities: expected one each a photo"
        )
    if set(labels) != {0, 1}:
        raise ValueError(f"labels are {sorted(set(labels))}: expected both 0 (cat) and 1 (dog)")
    called = probabilities > threshold
    confusion = metrics.confusion_matrix(labels, called, labels=[0, 1])
    (_, false_dogs), (_, true_dogs) = confusion
    result = {
        "photos": len(labels),
        "threshold": threshold,
        "accuracy": _share(confusion.trace(), len(labels)),
        "precision": _share(true_dogs, true_dogs + false_dogs),
        "recall": _share(true_dogs, labels.sum()),
    }
    measures = {
        "f1": lambda y, p: metrics.f1_score(y, p > threshold, zero_division=0.0),
        "roc_auc": metrics.roc_auc_score,
        "average_precision": metrics.average_precision_score,
        "log_loss": lambda y, p: metrics.log_loss(y, p, labels=[0, 1]),
        "brier": lambda y, p: np.mean((p - y) ** 2),
        "calibration_error": calibration_error,
    }
    rng = np.random.default_rng(0)
    # Cats and dogs are resampled apart, so that every sample has both.
    cats, dogs = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    samples = [
        np.concatenate([rng.choice(cats, len(cats)), rng.choice(dogs, len(dogs))])
        for _ in range(resamples)
    ]
    for name, measure in measures.items():
        low, high = np.percentile(
            [measure(labels[s], probabilities[s]) for s in samples], [2.5, 97.5]
        )
        result[name] = {
            "value": float(measure(labels, probabilities)),
            "low": float(low),
            "high": float(high),
        }
    result["confusion"] = confusion.tolist()
    return result


def calibration_error(labels, probabilities) -> float:
    """The expected calibration error: how far, on average, the confidence of "dog" is from the share of dogs.

    Over `CALIBRATION_BINS` bins of equal width, the difference between the mean probability and the
    share of dogs, weighted by photos.
    """
    labels, probabilities = np.asarray(labels, float), np.asarray(probabilities, float)
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def best_clip(labels, probabilities) -> float:
    """How far from 0 and 1 to keep `probabilities` for the lowest log loss against `labels`; one of `CLIPS`.

    A mistake made with confidence costs log loss without limit, and some labels are wrong: so no answer should be certain.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float).reshape(-1)
    return min(
        CLIPS,
        key=lambda clip: metrics.log_loss(
            labels, np.clip(probabilities, clip, 1 - clip), labels=[0, 1]
        ),
    )


def _share(successes, trials):
    if trials == 0:
        return {"value": None, "low": 0.0, "high": 1.0}
    interval = binomtest(int(successes), int(trials)).proportion_ci(0.95, method="wilson")
    return {
        "value": float(successes / trials),
        "low": float(interval.low),
        "high": float(interval.high),
    }
