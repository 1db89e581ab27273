"""The metrics, against values worked out by hand or by another formula."""

import numpy as np
import pytest
import sklearn.metrics

from catsdogs.analysis import metrics
from catsdogs.analysis.calibration import (
    Calibration,
    calibrate,
    can_fit_temperature,
    fit_temperature,
)
from catsdogs.analysis.metrics import (
    calibration_error,
    calibration_error_by_chance,
    evaluate,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.4, 0.9, 0.8, 0.7, 0.6, 0.3, 0.95, 0.5])


def test_metrics_by_hand():
    found = evaluate(LABELS, PROBABILITIES[:, None], resamples=50)
    # 0.5 is not above the threshold, so the last dog is classified as a cat.
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
        if isinstance(measure, dict) and name != "calibration_error":
            assert 0 <= measure["low"] <= measure["value"] <= measure["high"], name


def test_the_bootstrap_has_scikit_learns_measures():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    probabilities = np.round(rng.random(300), 2)  # many are equal, some 0 or 1
    samples = [np.arange(300), *rng.integers(0, 300, (5, 300))]
    for row, sample in zip(metrics._measures(labels, probabilities, 0.4, samples), samples):
        y, p = labels[sample], probabilities[sample]
        assert row == pytest.approx(
            [
                sklearn.metrics.f1_score(y, p > 0.4),
                sklearn.metrics.roc_auc_score(y, p),
                sklearn.metrics.average_precision_score(y, p),
                sklearn.metrics.log_loss(y, p),
                sklearn.metrics.brier_score_loss(y, p),
            ]
        )


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


def test_the_calibration_error_has_no_interval_as_it_is_biased():
    found = evaluate(LABELS, PROBABILITIES, resamples=5)
    assert found["calibration_error"] == {"value": calibration_error(LABELS, PROBABILITIES)}


def test_the_calibration_error_by_chance_covers_calibrated_labels_and_no_others():
    rng = np.random.default_rng(1)
    probabilities = rng.beta(0.3, 0.3, 1000)
    by_chance = calibration_error_by_chance(probabilities[:, None], resamples=400)
    # A bin of n photos is off by the absolute value of a normal variable, about sqrt(v / n).
    bins = np.minimum((probabilities * 15).astype(int), 14)
    variances = np.bincount(bins, probabilities * (1 - probabilities), 15)
    expected = np.sqrt(2 / np.pi) * np.sqrt(variances).sum() / 1000
    assert by_chance["value"] == pytest.approx(expected, rel=0.05)
    assert 0 < by_chance["low"] < by_chance["value"] < by_chance["high"]
    inside = [
        by_chance["low"]
        <= calibration_error(rng.random(1000) < probabilities, probabilities)
        <= by_chance["high"]
        for _ in range(200)
    ]
    assert 0.88 < np.mean(inside) < 1
    overconfident = rng.random(1000) < calibrate(probabilities, 3.0)
    assert calibration_error(overconfident, probabilities) > by_chance["high"]


def test_nothing_classified_as_dog_has_no_precision():
    found = evaluate(LABELS, PROBABILITIES, threshold=0.99, resamples=5)
    assert found["precision"]["value"] is None and found["recall"]["value"] == 0


def test_one_class_has_no_metrics_that_compare_two():
    dogs, cats = evaluate([1, 1], [0.3, 0.9], resamples=5), evaluate([0], [0.9], resamples=5)
    unknown = {"value": None, "low": 0.0, "high": 1.0}
    assert dogs["roc_auc"] == dogs["average_precision"] == unknown
    assert dogs["recall"]["value"] == 0.5 and dogs["precision"]["value"] == 1
    assert dogs["f1"]["value"] == pytest.approx(2 / 3)
    assert cats["recall"] == cats["f1"] == cats["roc_auc"] == unknown
    assert cats["accuracy"]["value"] == 0 and cats["precision"]["value"] == 0
    assert cats["log_loss"]["value"] == pytest.approx(-np.log(0.1))


@pytest.mark.parametrize(
    "labels, probabilities",
    [
        ([0, 1, 1], [0.2, 0.4, 0.9]),
        ([0] * 30 + [1] * 30, [0.1] * 30 + [0.9] * 30),  # no error
        ([0] * 30 + [1] * 30, [0.9] * 30 + [0.1] * 30),
        ([1] * 60, [0.2] * 10 + [0.9] * 50),
    ],
)
def test_a_temperature_that_photos_do_not_determine_stays_1(labels, probabilities):
    assert not can_fit_temperature(labels, probabilities)
    assert fit_temperature(labels, probabilities) == Calibration()


@pytest.mark.parametrize(
    "labels, probabilities, reason",
    [
        ([0, 1], [0.5], "one label and one probability per photo"),
        ([], [], "no photos"),
        ([0, 2], [0.1, 0.2], r"labels are \[0, 2\]"),
        ([0, 1], [0.1, np.nan], "training diverged"),
        ([0, 1], [0.1, 7.0], "from 0.1 to 7.0: expected 0 to 1"),
    ],
)
def test_what_cannot_be_evaluated_says_why(labels, probabilities, reason):
    with pytest.raises(ValueError, match=reason):
        evaluate(labels, probabilities)
