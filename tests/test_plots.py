"""The figures: they show the values they are given, legibly, and say when those are synthetic."""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np

from catsdogs import paths
from catsdogs.analysis import plots

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.4, 0.9, 0.8, 0.7, 0.6, 0.3, 0.95, 0.5])
HISTORY = {
    "loss": [0.7, 0.5],
    "accuracy": [0.5, 0.7],
    "val_loss": [0.6, 0.65],
    "val_accuracy": [0.6, 0.68],
}
LOSSES = {
    0.01: {"training": 0.3, "validation": 0.4},
    0.1: {"training": 0.1, "validation": 0.2},
}
RECORD = {
    "seconds": 120,
    "metrics": {
        "val": {"accuracy": {"value": 0.93}},
        "test": {"accuracy": {"value": 0.9, "low": 0.88, "high": 0.91}},
    },
}
ROWS = [
    {
        "measurement": measurement,
        "what": what,
        "backend": backend,
        "against": against,
        "speedup": speedup,
    }
    for measurement, what, backend, against, speedup in (
        ("epoch", "an epoch, float32", "tensorflow", "theirs", 4.0),
        ("epoch", "an epoch, bfloat16", "torch", "theirs", 0.5),
        ("epoch", "an epoch, float32", "jax", "theirs; they run on TensorFlow", None),
        ("memory", "peak memory", "tensorflow", "theirs", 1.5),
        ("memory", "the same, without Keras", "tensorflow", "theirs", 2.5),
    )
]


def figures():
    return [
        plots.curves(HISTORY, best_epoch=1, epochs=25, others={"earlier": HISTORY}),
        plots.confusion_matrix([[3, 1], [2, 4]], title="a title"),
        plots.roc_and_precision_recall(LABELS, PROBABILITIES),
        plots.calibration(LABELS, PROBABILITIES, bins=3),
        plots.threshold(LABELS, PROBABILITIES, 0.99),
        plots.regularization_curve(LOSSES, 0.1),
        plots.label_error_probabilities(PROBABILITIES),
        plots.speedups(ROWS, title="a machine"),
        plots.accuracy_against_time({"ours": RECORD}, {"theirs": (0.97, 0.97)}),
        plots.filters(np.random.rand(3, 3, 3, 20)),
        plots.photo_grid(np.zeros((7, 8, 8, 3)), ["x"] * 7, maps=np.zeros((7, 8, 8))),
    ]


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


def overlaps(figure):
    """Pairs of visible texts of the figure that are printed over each other."""
    figure.canvas.draw()
    boxes = [
        (text.get_text(), text.get_window_extent().padded(-1))
        for text in figure.findobj(plt.Text)
        if text.get_text() and text.get_visible()
    ]
    return [
        (one, other)
        for (one, box), (other, box2) in itertools.combinations(boxes, 2)
        if box.overlaps(box2)
    ]


def test_figures_show_what_they_are_given(empty):
    found = figures()
    assert any("epoch 1, kept: 60.0%" in text for text in texts(found[0]))
    assert {"3\n75.0%", "1\n25.0%", "2\n33.3%", "4\n66.7%"} <= set(texts(found[1]))
    assert not any("synthetic" in text for figure in found for text in texts(figure))
    for figure in found:
        figure.canvas.draw()
        plots.close(figure)


def test_speedups_are_dots_in_groups_of_one_question_and_one_baseline(empty):
    figure = plots.speedups(ROWS, title="a machine")
    axis, shown = figure.axes[0], texts(figure)
    dots = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert [speedup for speedup, _ in dots] == [4.0, 0.5, 1.5, 2.5]
    labels = [tick.get_text() for tick in axis.get_yticklabels()]
    assert labels == [
        "TensorFlow, float32",
        "PyTorch, bfloat16",
        "TensorFlow",
        "TensorFlow, without Keras",
    ]
    assert list(axis.get_yticks()) == [place for _, place in dots]
    assert {"An epoch", "Peak memory", "1 = baseline", "4×", "0.5×"} <= set(shown)
    assert shown.count("baseline: theirs") == 2
    plots.close(figure)


def test_the_published_speedups_are_legible(empty):
    bench = json.loads((paths.PROJECT / "benchmarks" / "bench.json").read_text(encoding="utf-8"))
    figure = plots.speedups(bench["rows"], title=bench["machine"])
    drawn = sum(row["speedup"] is not None for row in bench["rows"])
    assert sum(line.get_marker() == "o" for line in figure.axes[0].lines) == drawn
    assert overlaps(figure) == []
    plots.close(figure)


def test_labels_of_published_accuracies_do_not_overlap(empty):
    published = {"theirs": (0.97, 0.97), "others' " * 7: (0.972, 0.972), "more": (0.971, 0.98)}
    figure = plots.accuracy_against_time({"ours": RECORD}, published)
    assert overlaps(figure) == []
    assert {"theirs", "more", "ours: 90.0%"} <= set(texts(figure))
    plots.close(figure)


def test_the_calibration_curve_is_the_fraction_of_dogs_by_mean_probability(empty):
    figure = plots.calibration(LABELS, PROBABILITIES, bins=2)
    curve = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    # Bins 0.1, 0.2, 0.4, 0.3 and 0.9, 0.8, 0.7, 0.6, 0.95, 0.5.
    np.testing.assert_allclose(curve.get_xdata().astype(float), [0.25, 4.45 / 6])
    np.testing.assert_allclose(curve.get_ydata().astype(float), [1 / 4, 5 / 6])
    plots.close(figure)


def test_numbers_of_photos_are_whole(empty):
    for figure in (
        plots.threshold(LABELS, PROBABILITIES, 0.5),
        plots.calibration(LABELS, PROBABILITIES),
    ):
        figure.canvas.draw()
        ticks = [tick.get_text() for tick in figure.axes[-1].get_yticklabels()]
        assert len(ticks) > 1 and len(ticks) == len(set(ticks))
        assert all(tick == f"{int(tick)}" for tick in ticks if not tick.startswith("−"))
        plots.close(figure)


def test_every_figure_of_a_synthetic_run_says_so(synthetic):
    for figure in figures():
        assert "synthetic sample, not photos" in texts(figure)
        assert not [pair for pair in overlaps(figure) if "synthetic sample, not photos" in pair]
        plots.close(figure)


def test_the_readers_own_style_stays(empty):
    before = dict(plt.rcParams)
    plots.close(plots.confusion_matrix([[1, 0], [0, 1]]))
    assert dict(plt.rcParams) == before
