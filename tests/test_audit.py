"""Doubtful labels: what is swapped comes first, and no photo is judged by its copy."""

import numpy as np
import pandas as pd

from catsdogs.analysis import audit


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
    table = audit.rank(rows, audit.out_of_fold(values, labels, np.arange(200), strength=1.0))
    assert set(table.photo[:4]) == set(rows.photo[swapped]) and list(table["rank"]) == list(
        range(1, 201)
    )
    assert (table.doubt[:4] > 0.5).all() and table.doubt.is_monotonic_decreasing
    assert ((table.probability > 0.5) == (table.label == 1))[4:].all()


def test_copies_of_a_photo_never_judge_each_other(monkeypatch):
    values, labels, _ = sample()
    groups = np.arange(200) // 4 * 2 + labels  # two photos a picture
    seen = []

    class Judge:
        def fit(self, values, labels):
            seen.append(set(values[:, 0]))
            return self

        def predict_proba(self, values):
            assert not seen[-1] & set(values[:, 0])
            return np.full((len(values), 2), 0.5)

    monkeypatch.setattr(audit, "make_pipeline", lambda *steps: Judge())
    assert (
        audit.out_of_fold(np.repeat(groups[:, None], 2, 1), labels, groups, strength=1.0) == 0.5
    ).all()
    assert len(seen) == 5


def test_shares_of_imagenet_are_those_of_its_cats_and_dogs():
    scores = np.zeros((3, 1000))
    scores[0, 281] = scores[1, 200] = scores[2, 999] = 50
    np.testing.assert_allclose(audit.imagenet_shares(scores), [[1, 0], [0, 1], [0, 0]], atol=1e-6)
