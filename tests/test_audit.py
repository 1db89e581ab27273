"""The label audit: swapped labels rank first, and no photo is judged by a copy of itself."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.analysis import audit, metrics


def sample(swapped=()):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    values = rng.normal(size=(200, 5)).astype(np.float32) + 3 * labels[:, None]
    labels[list(swapped)] ^= 1
    return (
        values,
        labels,
        pd.DataFrame(
            {
                "photo": [f"{('Cat', 'Dog')[label]}/{n}.jpg" for n, label in enumerate(labels)],
                "label": labels,
            }
        ),
    )


def test_swapped_labels_come_first():
    swapped = [7, 60, 101, 150]
    values, labels, rows = sample(swapped)
    table = audit.rank(rows, audit.out_of_fold(values, labels, np.arange(200), C=1.0))
    assert set(table.photo[:4]) == set(rows.photo[swapped]) and list(table["rank"]) == list(
        range(1, 201)
    )
    assert (
        table.label_error_probability[:4] > 0.5
    ).all() and table.label_error_probability.is_monotonic_decreasing
    assert ((table.probability > 0.5) == (table.label == 1))[4:].all()


def test_the_label_error_probability_is_that_of_the_class_the_label_does_not_name():
    rows = pd.DataFrame({"photo": ["Cat/1.jpg", "Dog/1.jpg"], "label": [0, 1]})
    table = audit.rank(rows, [0.9, 0.8]).set_index("photo")
    np.testing.assert_allclose(
        table.label_error_probability[["Cat/1.jpg", "Dog/1.jpg"]], [0.9, 0.2]
    )


def test_out_of_fold_predictions_are_those_of_a_loop_over_the_folds():
    values, labels, _ = sample(swapped=[7, 60])
    labels, groups = labels.astype(np.int8), np.arange(200) // 4 * 2 + labels
    expected = np.empty(200)
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=3)
    for train, held_out in folds.split(values, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=5000))
        model.fit(values[train], labels[train])
        expected[held_out] = model.predict_proba(values[held_out])[:, 1]
    found = audit.out_of_fold(values, pd.Series(labels), groups, C=0.02, folds=4, seed=3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("photos", [4, 6, 16])
def test_few_photos_are_predicted_in_fewer_folds(photos):
    values, labels, _ = sample()
    found = audit.out_of_fold(values[:photos], labels[:photos], np.arange(photos), C=1.0)
    assert ((found > 0.5) == labels[:photos]).mean() > 0.8


def test_a_class_of_one_photo_cannot_be_audited():
    values, labels, _ = sample()
    with pytest.raises(ValueError, match="1 different photos of one class"):
        audit.out_of_fold(values[:5], labels[:5], [0, 1, 2, 1, 3], C=1.0)


def test_copies_of_a_photo_never_judge_each_other(monkeypatch):
    values, labels, _ = sample()
    groups = np.arange(200) // 4 * 2 + labels  # two copies of each photo
    seen = []

    class Judge(ClassifierMixin, BaseEstimator):
        def fit(self, values, labels):
            self.classes_ = np.unique(labels)
            seen.append(set(values[:, 0]))
            return self

        def predict(self, values):
            raise AssertionError("probabilities were asked for")

        def predict_proba(self, values):
            assert not seen[-1] & set(values[:, 0])
            return np.full((len(values), 2), 0.5)

    monkeypatch.setattr(audit, "make_pipeline", lambda *steps: Judge())
    assert (audit.out_of_fold(np.repeat(groups[:, None], 2, 1), labels, groups, C=1.0) == 0.5).all()
    assert len(seen) == 5


def test_the_manual_review_has_verdicts_and_label_issues_are_all_but_the_right_ones():
    reviewed = audit.review().set_index("photo")
    assert set(reviewed.verdict) <= {"wrong", "both", "neither", "unclear", "right"}
    issues = audit.label_issues()
    assert len(issues) == len(set(issues)) == (reviewed.verdict != "right").sum() > 0
    assert (reviewed.verdict[issues] != "right").all()
    # A swapped label that was reported before, and reviewed, was found to be wrong.
    assert (reviewed.verdict[reviewed.index.isin(audit.KNOWN_SWAPPED)] == "wrong").all()


def test_leaving_out_swapped_labels_trains_on_fewer_photos_and_is_judged_by_the_same(monkeypatch):
    swapped = list(range(0, 60, 2))  # so many that the classifier suffers
    values, labels, rows = sample(swapped)
    train = SimpleNamespace(values=values, labels=labels, names=list(rows.photo))
    clean_values, clean_labels, clean_rows = sample()
    val = SimpleNamespace(values=clean_values, labels=clean_labels, names=list(clean_rows.photo))
    evaluated = []

    def evaluate(labels, probabilities):
        evaluated.append((labels, probabilities))
        return metrics.evaluate(labels, probabilities, resamples=5)

    monkeypatch.setattr(audit, "evaluate", evaluate)
    table = audit.effect_of_leaving_out(train, val, rows.photo[swapped], C=1.0)
    assert list(table.photos) == ["200", "170"]
    assert all((labels == clean_labels).all() for labels, _ in evaluated)
    with_them, without = (log_loss(*found) for found in evaluated)
    assert without < with_them
    for row, loss in zip(table.itertuples(index=False), (with_them, without)):
        assert row[3].startswith(f"{loss:.4f} (") and "%" in row[2]


def test_imagenet_shares_are_those_of_its_cats_and_dogs():
    logits = np.zeros((3, 1000))
    logits[0, 281] = logits[1, 200] = logits[2, 999] = 50
    np.testing.assert_allclose(audit.imagenet_shares(logits), [[1, 0], [0, 1], [0, 0]], atol=1e-6)
