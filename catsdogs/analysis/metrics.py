"""Evaluation metrics of a binary classifier, with 95% confidence intervals."""

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics

#: Bins of `calibration_error`, as many as in Guo et al. (2017), "On Calibration of Modern Neural
#: Networks".
CALIBRATION_BINS = 15
#: The values of ε that `best_clip` tries.
CLIPS = (1e-7, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 2e-2)

#: What `_measures` computes, in this order.
_MEASURES = ("f1", "roc_auc", "average_precision", "log_loss", "brier")
_UNKNOWN = {"value": None, "low": 0.0, "high": 1.0}


def checked(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """`labels` and `probabilities` as arrays of shape (photos,), the labels as integers.

    Raises `ValueError` for arrays of different lengths or without photos, labels other than 0 and
    1, and probabilities that are none, such as those of a model whose training diverged.
    """
    labels = np.asarray(labels).astype(int)
    probabilities = np.asarray(probabilities, float).reshape(-1)
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(
            f"labels of shape {labels.shape} and {probabilities.size} probabilities: "
            "expected one label and one probability per photo"
        )
    if not labels.size:
        raise ValueError("no photos: expected at least one label and one probability")
    if not set(labels) <= {0, 1}:
        raise ValueError(f"labels are {np.unique(labels).tolist()}: expected 0 (cat) and 1 (dog)")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"probabilities from {probabilities.min()} to {probabilities.max()}: expected 0 to 1. "
            "NaN means that the training diverged: train with a lower learning rate"
        )
    return labels, probabilities


def evaluate(labels, probabilities, *, threshold: float = 0.5, resamples: int = 1000) -> dict:
    """Metrics of predicted `probabilities` of "dog" against the true `labels`.

    `labels` has shape (photos,), 0 for cat and 1 for dog, the positive class; `probabilities` has
    shape (photos,) or (photos, 1). A photo is classified as a dog if its probability is above
    `threshold`, as in `keras.metrics.BinaryAccuracy`.

    Every metric is a dictionary of ``value``, ``low`` and ``high``, the ends of a 95% confidence
    interval. The intervals cover the choice of the photos, not the random seed of the training:

    - ``accuracy``, ``precision``, ``recall``: Wilson's score interval (Wilson, 1927, "Probable
      Inference, the Law of Succession, and Statistical Inference")
    - ``f1``, ``roc_auc``, ``average_precision``, ``log_loss`` and ``brier`` (the mean squared
      error): the percentile bootstrap (Efron and Tibshirani, 1993, *An Introduction to the
      Bootstrap*, chapter 13) with `resamples` samples, seeded and stratified by class

    ``calibration_error`` has a ``value`` only: it is biased upwards, and more so in each bootstrap
    sample, where photos are repeated. The percentile interval may therefore lie wholly above the
    value. For a scale to read it on, see `calibration_error_by_chance`.

    The result also has ``photos``, ``threshold`` and ``confusion``, the confusion matrix with true
    labels as rows and predicted labels as columns.

    What these photos cannot tell has the ``value`` None, and an interval from 0 to 1: the precision
    if no photo is classified as a dog, recall and F1 without dogs, and what compares the two
    classes, ``roc_auc`` and ``average_precision``, if there is only one of them.

    Raises `ValueError` as `checked` does.
    """
    labels, probabilities = checked(labels, probabilities)
    confusion = metrics.confusion_matrix(labels, probabilities > threshold, labels=[0, 1])
    (_, false_positives), (_, true_positives) = confusion
    result = {
        "photos": len(labels),
        "threshold": threshold,
        "accuracy": _proportion(confusion.trace(), len(labels)),
        "precision": _proportion(true_positives, true_positives + false_positives),
        "recall": _proportion(true_positives, labels.sum()),
    }
    undefined = set()
    if len(set(labels)) < 2:
        undefined |= {"roc_auc", "average_precision"}
    if not labels.any():
        undefined.add("f1")
    values = _measures(labels, probabilities, threshold, [np.arange(len(labels))])[0]
    rng = np.random.default_rng(0)
    # Stratified, so that every sample has both classes.
    cats, dogs = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    samples = [
        np.concatenate([rng.choice(cats, len(cats)), rng.choice(dogs, len(dogs))])
        for _ in range(resamples)
    ]
    bounds = np.percentile(
        _measures(labels, probabilities, threshold, samples), [2.5, 97.5], axis=0
    )
    for name, value, low, high in zip(_MEASURES, values, *bounds, strict=True):
        result[name] = (
            dict(_UNKNOWN)
            if name in undefined
            else {"value": float(value), "low": float(low), "high": float(high)}
        )
    result["calibration_error"] = {"value": calibration_error(labels, probabilities)}
    result["confusion"] = confusion.tolist()
    return result


def calibration_error(labels, probabilities) -> float:
    """The expected calibration error (ECE) of `probabilities` of "dog", both of shape (photos,).

    The probabilities are sorted into `CALIBRATION_BINS` bins of equal width; the error is the
    difference between a bin's mean probability and its fraction of dogs, weighted by the bin's
    number of photos (Guo et al., 2017, equation 3, of the positive class's probability in place of
    the predicted class's).
    """
    labels, probabilities = np.asarray(labels, float), np.asarray(probabilities, float)
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, probabilities - labels, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def calibration_error_by_chance(probabilities, *, resamples: int = 1000) -> dict[str, float]:
    """The `calibration_error` that `probabilities`, shape (photos,), have if perfectly calibrated.

    It is not 0: among the few photos of a bin, the fraction of dogs differs from the probability by
    chance. A dictionary of the mean, ``value``, and the middle 95%, ``low`` to ``high``, over
    `resamples` sets of labels drawn with these probabilities. An error within that range is no
    evidence of miscalibration.

    Source: consistency resampling, of Bröcker and Smith (2007), "Increasing the Reliability of
    Reliability Diagrams".
    """
    probabilities = np.asarray(probabilities, float).reshape(-1)
    rng = np.random.default_rng(0)
    errors = [
        calibration_error(rng.random(len(probabilities)) < probabilities, probabilities)
        for _ in range(resamples)
    ]
    low, high = np.percentile(errors, [2.5, 97.5])
    return {"value": float(np.mean(errors)), "low": float(low), "high": float(high)}


def best_clip(labels, probabilities) -> float:
    """The ε of `CLIPS` for which `probabilities` clipped to [ε, 1 − ε] have the lowest log loss.

    `labels` and `probabilities` of "dog" have shape (photos,). Log loss has no upper limit for a
    confident error, and some labels are wrong: no prediction should be certain.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float).reshape(-1)
    return min(
        CLIPS,
        key=lambda clip: metrics.log_loss(
            labels, np.clip(probabilities, clip, 1 - clip), labels=[0, 1]
        ),
    )


def _measures(labels, probabilities, threshold, samples):
    """`_MEASURES` of each of the `samples`, arrays of indices; shape (samples, measures).

    The same as scikit-learn's, whose checks of each argument take a hundred times as long as the
    arithmetic: ten seconds for a thousand samples. Undefined measures are NaN.
    """
    # Photos of equal probability are one threshold. All measures follow from how many cats and
    # dogs a sample has at each.
    thresholds, place = np.unique(probabilities, return_inverse=True)
    above = thresholds > threshold
    tiny = np.finfo(float).eps  # as in sklearn.metrics.log_loss
    loss = -np.log(np.clip([1 - thresholds, thresholds], tiny, 1))  # of a cat, of a dog
    error = np.array([thresholds, 1 - thresholds]) ** 2
    found = np.empty((len(samples), len(_MEASURES)))
    for row, sample in zip(found, samples, strict=True):
        # One row for each class.
        counts = np.bincount(
            place[sample] + len(thresholds) * labels[sample], minlength=2 * len(thresholds)
        ).reshape(2, -1)
        cats, dogs = counts
        (all_cats, all_dogs), (false_positives, true_positives) = (
            counts.sum(1),
            counts[:, above].sum(1),
        )
        with np.errstate(invalid="ignore"):
            # A dog outranks the cats below it, and half of those at the same threshold.
            outranked = dogs @ (np.cumsum(cats) - cats / 2)
            at_least = np.cumsum(counts[:, ::-1], axis=1)
            precision = at_least[1] / np.maximum(at_least.sum(0), 1)
            row[:] = (
                2 * true_positives / (all_dogs + false_positives + true_positives),
                outranked / (all_cats * all_dogs),
                dogs[::-1] @ precision / all_dogs,
                (loss * counts).sum() / len(sample),
                (error * counts).sum() / len(sample),
            )
    return found


def _proportion(successes, trials):
    if trials == 0:
        return dict(_UNKNOWN)
    interval = binomtest(int(successes), int(trials)).proportion_ci(0.95, method="wilson")
    return {
        "value": float(successes / trials),
        "low": float(interval.low),
        "high": float(interval.high),
    }
