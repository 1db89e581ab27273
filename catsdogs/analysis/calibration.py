"""How sure an answer is: a model's probabilities, corrected so that they hold, and what is too unsure to answer."""

from dataclasses import dataclass

import numpy as np

#: An answer that is right less often than this, as far as the calibration knows, is "unsure".
UNSURE_BELOW = 0.8


@dataclass(frozen=True)
class Calibration:
    """Turns a model's probability of "dog" into a confidence and a label.

    ``temperature``: what the logit is divided by; above 1 where the model is surer than it should be. It changes how sure an
    answer is, never which of the two it is. ``unsure_below``: the confidence below which the label is ``"unsure"``.
    """

    temperature: float = 1.0
    unsure_below: float = UNSURE_BELOW

    def confidence(self, probability: float) -> float:
        """How often such an answer is right, 0.5 to 1, for the `probability` of "dog" that the model gave."""
        return float(max(calibrated := calibrate(probability, self.temperature), 1 - calibrated))

    def label(self, probability: float) -> str:
        """``"cat"``, ``"dog"`` or ``"unsure"``."""
        if self.confidence(probability) < self.unsure_below:
            return "unsure"
        return "dog" if probability >= 0.5 else "cat"


def calibrate(probabilities, temperature: float):
    """`probabilities`, 0 to 1, with their logits divided by `temperature`; same shape."""
    kept = np.clip(np.asarray(probabilities, float), 1e-7, 1 - 1e-7)
    return 1 / (1 + np.exp(-np.log(kept / (1 - kept)) / temperature))


def fit_temperature(labels, probabilities) -> Calibration:
    """The calibration under which `probabilities` of "dog", shape (photos,), fit `labels`, 0 or 1, best: by log loss.

    Temperature scaling, of Guo et al. (2017), "On Calibration of Modern Neural Networks". To be fitted on validation photos:
    on photos that a model was trained on it is always too sure.

    Raises `ValueError` for labels of one class only.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import log_loss

    labels = np.asarray(labels).astype(int)
    if set(labels) != {0, 1}:
        raise ValueError(f"labels are {sorted(set(labels))}: expected both 0 (cat) and 1 (dog)")
    found = minimize_scalar(
        lambda scale: log_loss(labels, calibrate(probabilities, np.exp(scale))),
        bounds=(-3, 3),
        method="bounded",
    )
    return Calibration(float(np.exp(found.x)))


def selective_accuracy(labels, probabilities, calibration: Calibration) -> dict:
    """What "unsure" does to accuracy: ``unsure``, the share of photos; ``accuracy_confident`` and ``accuracy_unsure``.

    The latter are shares of the photos answered and not answered that the more likely label is right for; None for no photos.
    """
    probabilities = np.asarray(probabilities, float).reshape(-1)
    right = (probabilities >= 0.5) == np.asarray(labels).astype(bool)
    unsure = np.array([calibration.label(p) == "unsure" for p in probabilities])
    return {
        "unsure": float(unsure.mean()),
        "accuracy_confident": float(right[~unsure].mean()) if (~unsure).any() else None,
        "accuracy_unsure": float(right[unsure].mean()) if unsure.any() else None,
    }
