"""Calibrated confidence by temperature scaling, and the threshold below which it is "unsure"."""

from dataclasses import dataclass

import numpy as np

#: A prediction whose calibrated confidence is below this is labelled "unsure".
UNSURE_BELOW = 0.8
#: Fewer photos than these say next to nothing about the temperature.
FEWEST_PHOTOS = 20


@dataclass(frozen=True)
class Calibration:
    """Turns a model's predicted probability of "dog" into a calibrated confidence and a label.

    ``temperature``: the divisor of the logit, above 1 if the model is over-confident and below 1 if
    it is under-confident. It changes the confidence, never which class is predicted.
    ``unsure_below``: the confidence below which the label is ``"unsure"``.
    """

    temperature: float = 1.0
    unsure_below: float = UNSURE_BELOW

    def confidence(self, probability: float) -> float:
        """The calibrated probability of the predicted class, 0.5 to 1.

        `probability` is the model's, of "dog", 0 to 1.
        """
        return float(max(calibrated := calibrate(probability, self.temperature), 1 - calibrated))

    def label(self, probability: float, neither: float | None = None) -> str:
        """The label: ``"cat"``, ``"dog"``, ``"unsure"`` or ``"neither"``.

        `probability` is that of "dog"; `neither`, if the model has it, the score for "neither",
        which is the label from 0.5 on.
        """
        if neither is not None and neither >= 0.5:
            return "neither"
        if self.confidence(probability) < self.unsure_below:
            return "unsure"
        return "dog" if probability >= 0.5 else "cat"


def calibrate(probabilities, temperature: float):
    """`probabilities`, 0 to 1, with their logits divided by `temperature`; same shape."""
    # Clipped, as the logits of 0 and 1 are infinite.
    clipped = np.clip(np.asarray(probabilities, float), 1e-7, 1 - 1e-7)
    return 1 / (1 + np.exp(-np.log(clipped / (1 - clipped)) / temperature))


def fit_temperature(labels, probabilities) -> Calibration:
    """The calibration with the temperature that minimizes log loss.

    `labels`, 0 or 1, and `probabilities` of "dog" have shape (photos,). They should be of the
    validation set: on its training set a model tends to be over-confident.

    The temperature stays 1 where `can_fit_temperature` says that the photos do not determine it.

    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", section 4.2.

    Raises `ValueError` as `catsdogs.analysis.metrics.checked` does.
    """
    # Here, as the service needs a calibration but neither SciPy nor scikit-learn.
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import log_loss

    from catsdogs.analysis.metrics import checked

    if not can_fit_temperature(labels, probabilities):
        return Calibration()
    labels, probabilities = checked(labels, probabilities)
    # Over the logarithm, so that halving the temperature is as far as doubling it.
    found = minimize_scalar(
        lambda scale: log_loss(labels, calibrate(probabilities, np.exp(scale)), labels=[0, 1]),
        bounds=(-3, 3),
        method="bounded",
    )
    return Calibration(float(np.exp(found.x)))


def can_fit_temperature(labels, probabilities) -> bool:
    """Whether `fit_temperature` can fit one: from `FEWEST_PHOTOS` photos on, of both classes.

    Some must be classified correctly and some not. Without errors the log loss falls forever as the
    temperature goes to 0, which would make a model certain of everything.
    """
    from catsdogs.analysis.metrics import checked

    labels, probabilities = checked(labels, probabilities)
    right = (probabilities >= 0.5) == labels
    return (
        len(labels) >= FEWEST_PHOTOS
        and len(set(labels)) == 2
        and bool(right.any() and not right.all())
    )


def selective_accuracy(labels, probabilities, calibration: Calibration) -> dict:
    """Accuracy apart for confident and for unsure predictions (selective classification).

    `labels`, 0 or 1, and `probabilities` of "dog" have shape (photos,). Returns ``unsure``, the
    fraction of unsure predictions, and ``accuracy_confident`` and ``accuracy_unsure``, the accuracy
    of the more probable class among the confident and among the unsure ones; None where there are
    none.
    """
    probabilities = np.asarray(probabilities, float).reshape(-1)
    right = (probabilities >= 0.5) == np.asarray(labels).astype(bool)
    unsure = np.array([calibration.label(p) == "unsure" for p in probabilities])
    return {
        "unsure": float(unsure.mean()),
        "accuracy_confident": float(right[~unsure].mean()) if (~unsure).any() else None,
        "accuracy_unsure": float(right[unsure].mean()) if unsure.any() else None,
    }
