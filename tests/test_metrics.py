"""The measures, against values worked out by hand or by another formula, and the figures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from catsdogs.analysis import plots
from catsdogs.analysis.metrics import calibration_error, evaluate

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.4, 0.9, 0.8, 0.7, 0.6, 0.3, 0.95, 0.5])


def test_measures_by_hand():
    found = evaluate(LABELS, PROBABILITIES[:, None], resamples=50)
    # 0.5 is not above the threshold, so the last dog is called a cat.
    assert found["confusion"] == [[3, 1], [2, 4]]
    assert found["accuracy"]["value"] == 0.7
    assert found["precision"]["value"] == 0.8
    assert found["recall"]["value"] == pytest.approx(4 / 6)
    assert found["f1"]["value"] == pytest.approx(2 * 0.8 * (4 / 6) / (0.8 + 4 / 6))
    pairs = [
        (dog > cat) + 0.5 * (dog == cat)
        for dog in PROBABILITIES[LABELS == 1]
        for cat in PROBABILITIES[LABELS == 0]
    ]
    assert found["roc_auc"]["value"] == pytest.approx(np.mean(pairs))
    right = np.where(LABELS == 1, PROBABILITIES, 1 - PROBABILITIES)
    assert found["log_loss"]["value"] == pytest.approx(-np.log(right).mean())
    assert found["brier"]["value"] == pytest.approx(((1 - right) ** 2).mean())
    for name, measure in found.items():
        if isinstance(measure, dict):
            assert 0 <= measure["low"] <= measure["value"] <= measure["high"], name


def test_wilsons_interval():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263 is 0.2553 to 0.3662.
    labels = np.r_[np.ones(263), np.zeros(1)]
    probabilities = np.r_[np.ones(81), np.zeros(183)]
    recall = evaluate(labels, probabilities, resamples=2)["recall"]
    assert recall["low"] == pytest.approx(0.2553, abs=1e-4) and recall["high"] == pytest.approx(
        0.3662, abs=1e-4
    )


def test_the_bootstrap_interval_covers_what_theory_says():
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(500), np.ones(500)].astype(int)
    probabilities = np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1)
    measure = evaluate(labels, probabilities)["brier"]
    expected = 1.96 * np.std((probabilities - labels) ** 2) / np.sqrt(1000)
    assert (measure["high"] - measure["low"]) / 2 == pytest.approx(expected, rel=0.15)


def test_calibration_error():
    assert calibration_error([0, 1] * 50, [0.5] * 100) == pytest.approx(0)
    assert calibration_error([0] * 100, [0.9] * 100) == pytest.approx(0.9)
    # Two bins that are off to either side do not cancel.
    assert calibration_error([0] * 50 + [1] * 50, [0.2] * 50 + [0.8] * 50) == pytest.approx(0.2)


def test_nothing_called_dog_has_no_precision():
    found = evaluate(LABELS, PROBABILITIES, threshold=0.99, resamples=5)
    assert found["precision"]["value"] is None and found["recall"]["value"] == 0


@pytest.mark.parametrize(
    "labels, probabilities, reason",
    [([0, 1], [0.5], "one each"), ([1, 1], [0.5, 0.6], "both 0"), ([0, 2], [0.1, 0.2], "both 0")],
)
def test_what_cannot_be_evaluated_says_why(labels, probabilities, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(labels, probabilities)


# --- figures ---------------------------------------------------------------------------------------

HISTORY = {
    "loss": [0.7, 0.5],
    "accuracy": [0.5, 0.7],
    "val_loss": [0.6, 0.65],
    "val_accuracy": [0.6, 0.68],
}


def figures():
    return [
        plots.curves(HISTORY, best_epoch=1, epochs=25, others={"earlier": HISTORY}),
        plots.confusion_matrix([[3, 1], [2, 4]], title="a title"),
        plots.roc_and_precision_recall(LABELS, PROBABILITIES),
        plots.calibration(LABELS, PROBABILITIES, bins=3),
        plots.threshold(LABELS, PROBABILITIES, 0.99),
        plots.filters(np.random.rand(3, 3, 3, 20)),
        plots.photo_grid(np.zeros((7, 8, 8, 3)), ["x"] * 7, maps=np.zeros((7, 8, 8))),
    ]


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def test_figures_show_what_they_are_given(empty):
    found = figures()
    assert any("epoch 1, kept: 60.0%" in text for text in texts(found[0]))
    assert {"3\n75.0%", "1\n25.0%", "2\n33.3%", "4\n66.7%"} <= set(texts(found[1]))
    assert not any("synthetic" in text for figure in found for text in texts(figure))
    for figure in found:
        figure.canvas.draw()
        plots.close(figure)


def test_every_figure_of_a_synthetic_run_says_so(synthetic):
    for figure in figures():
        assert "synthetic sample, not photos" in texts(figure)
        plots.close(figure)


def test_the_readers_own_style_stays(empty):
    before = dict(plt.rcParams)
    plots.close(plots.confusion_matrix([[1, 0], [0, 1]]))
    assert dict(plt.rcParams) == before
