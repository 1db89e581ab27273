"""The figures: they show the values they are given, legibly, and say when those are synthetic."""

import itertools
import json
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from sklearn import metrics

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


def visible(figure):
    """The texts of the figure, without the labels of ticks that are out of view."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not axes.axison or not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    texts = figure.findobj(plt.Text)
    return [text for text in texts if text.get_text() and text.get_visible() and text not in hidden]


def overlaps(figure):
    """Pairs of visible texts of the figure that are printed over each other."""
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in visible(figure)]
    return [
        (one, other)
        for (one, box), (other, box2) in itertools.combinations(boxes, 2)
        if box.overlaps(box2)
    ]


def misprints(figure):
    """What cannot be read: texts over each other or cut off, lines through a legend."""
    found, frame = overlaps(figure), figure.bbox.padded(1)
    for text in visible(figure):
        box = text.get_window_extent()
        if not (frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)):
            found.append(("cut off", text.get_text()))
    # Lines are clipped to the axes: nothing runs through what lies outside of them.
    legends = figure.legends + [axis.get_legend() for axis in figure.axes]
    found += [
        ("in the axes", text.get_text())
        for legend in filter(None, legends)
        for text in legend.get_texts()
        if any(text.get_window_extent().overlaps(axis.bbox) for axis in figure.axes)
    ]
    return found


def history(epochs, **changes):
    t = np.arange(1, epochs + 1)
    curve = {"loss": 0.7 / t, "val_loss": 0.6 / t, "accuracy": 1 - 0.4 / t}
    return {
        key: list(values) for key, values in (curve | {"val_accuracy": 1 - 0.5 / t}).items()
    } | {key: [value] * epochs for key, value in changes.items()}


def sample(photos):
    rng = np.random.default_rng(0)
    labels = np.arange(photos) % 2
    return labels, 1 / (1 + np.exp(-rng.normal(4 * labels - 2, 2)))


EXTREMES = {
    "2 photos": ([0, 1], [0.2, 0.9]),
    "60 photos": sample(60),
    "2,000 photos": sample(2000),
    "all correct": ([0] * 30 + [1] * 30, [0.0] * 30 + [1.0] * 30),
    "no cats": ([1] * 12, np.linspace(0, 1, 12)),
    "no dogs": ([0] * 3, [0.1, 0.2, 0.7]),
    "all equal": ([0, 1] * 10, [0.5] * 20),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_few_and_extreme_predictions_are_legible(synthetic, name):
    labels, probabilities = map(np.asarray, EXTREMES[name])
    confusion = metrics.confusion_matrix(labels, probabilities > 0.5, labels=[0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an empty class is no reason for one
        figures = [
            plots.confusion_matrix(confusion, title=f"{len(labels):,} test photos, mean of both"),
            plots.roc_and_precision_recall(labels, probabilities),
            plots.calibration(labels, probabilities),
            plots.threshold(labels, probabilities, 0.5),
            plots.label_error_probabilities(probabilities),
        ]
    for figure in figures:
        assert misprints(figure) == []
        assert not any("nan" in text for text in texts(figure))
    assert any("no curve: all" in text for text in texts(figures[1])) == (len(set(labels)) == 1)
    for figure in figures[2:]:
        counts = [tick.get_text() for tick in figure.axes[-1].get_yticklabels()]
        assert counts and all(count.replace(",", "").isdecimal() for count in counts if count)
    plt.close("all")


LONG = "learning_rate 0.003, dropout 0.55, augmentation strong, filters (32, 64, 128), $x$ " * 2


@pytest.mark.parametrize(
    ("shown", "others"),
    [
        (history(1), {}),
        (history(2), {}),
        (history(60), {}),
        (history(3), {f"run {index}: {LONG}": history(30) for index in range(4)}),
        (history(5, loss=float("nan"), val_loss=float("nan")), {}),
        (history(4, loss=0.0, val_loss=0.0, accuracy=1.0, val_accuracy=1.0), {}),
        (history(9, loss=3e6), {}),
    ],
    ids=["one epoch", "two", "many", "long names", "NaN", "perfect", "huge"],
)
def test_learning_curves_of_any_history_are_legible(synthetic, shown, others):
    figure = plots.curves(shown, best_epoch=1, others=others)
    assert misprints(figure) == []
    loss, accuracy = figure.axes
    epochs = len(shown["loss"])
    assert all(tick == int(tick) for tick in loss.get_xticks())
    # A short curve is dots too: of a single epoch there would be nothing to see otherwise.
    markers = {line.get_marker() for line in loss.lines if line.get_label() == "training"}
    assert markers == ({"o"} if epochs < 10 else {"None"})
    # None is cut where the shorter one ends.
    assert loss.get_xlim()[1] > max([epochs, *(len(other["loss"]) for other in others.values())])
    assert max(tick for tick in accuracy.get_yticks() if tick < accuracy.get_ylim()[1]) <= 1
    assert min(tick for tick in loss.get_yticks() if tick > loss.get_ylim()[0]) >= 0
    if np.isnan(shown["loss"]).any():
        assert loss.get_title(loc="left") == "Loss: not finite from epoch 1"
        assert not any("kept" in text for text in texts(figure))
    plots.close(figure)


def table(photos):
    rng = np.random.default_rng(0)
    width, height = rng.integers(100, 500, (2, photos))
    values = {"width": width, "height": height, "bytes": rng.integers(1, 90_000, photos)}
    return pd.DataFrame({"label": np.arange(photos) % 2, "problem": "", **values})


@pytest.mark.parametrize("photos", [0, 10])
def test_sizes_of_few_and_many_photos_are_legible(synthetic, photos):
    figure = plots.sizes(table(photos))
    assert misprints(figure) == []
    ticks = figure.axes[1].get_yticks()
    assert all(tick == int(tick) for tick in ticks)
    plots.close(figure)


NAMES = [
    "a$\\foo$.jpg",
    "W" * 60,
    "My very long holiday photo (70).jpg",
    "猫の写真.jpg",
    "a\tb",
    "",
]


@pytest.mark.parametrize("heatmaps", [False, True])
@pytest.mark.parametrize("photos", [0, 1, 7])
def test_photos_of_any_number_and_name_are_legible(synthetic, photos, heatmaps):
    images = np.full((photos, 16, 16, 3), 90, np.uint8)
    maps = np.zeros((photos, 16, 16)) if heatmaps else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of a character that the font does not have
        figure = plots.photo_grid(images, (NAMES * 2)[:photos], maps=maps)
        assert misprints(figure) == []
    assert ("no photos" in texts(figure)) == (photos == 0)
    plots.close(figure)


def test_a_heatmap_leaves_the_photo_visible(empty):
    photo = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    heat = np.zeros((1, 16, 16))
    heat[0, 4, 4] = 1
    figure = plots.photo_grid(photo, ["x"], maps=heat)
    (shown,) = figure.axes[0].images
    pixels = np.asarray(shown.get_array())
    np.testing.assert_array_equal(pixels[:, :16], photo[0])  # the photo by itself
    changed = (pixels[:, -16:] != photo[0]).any(-1)
    assert changed[4, 4] and changed.sum() == 1  # elsewhere, it is as bright as it was
    plots.close(figure)


def test_filters_of_any_number_have_a_place(synthetic):
    for filters in (1, 20):
        figure = plots.filters(np.random.rand(3, 3, 3, filters))
        assert misprints(figure) == []
        mark = figure.texts[0].get_window_extent()
        assert not figure.axes[0].get_window_extent().overlaps(mark)
        plots.close(figure)


@pytest.mark.parametrize("speedups", [[], [4.0], [0.0005, 15_000.0, 2.5], [0.5, 0.4]])
def test_speedups_of_any_range_stay_within_the_figure(synthetic, speedups):
    rows = [ROWS[0] | {"speedup": speedup, "what": f"x, {speedup}"} for speedup in speedups]
    figure = plots.speedups(rows, title="a machine with a long name " * 6)
    assert misprints(figure) == []
    plots.close(figure)


def test_accuracies_of_any_number_of_networks_are_legible(synthetic):
    untested = {"seconds": 0.2, "metrics": {"val": {"accuracy": {"value": 1.0}}}}
    published = {"theirs": (0.97, 0.97), "others' " * 7: (0.972, 0.972), "more": (0.971, 0.98)}
    for count in (0, 1, 20):
        records = {f"network {index}, {LONG}"[: 9 + 6 * index]: RECORD for index in range(count)}
        figure = plots.accuracy_against_time(records | {"untested": untested}, published)
        assert misprints(figure) == []
        assert max(t for t in figure.axes[0].get_yticks() if t < figure.axes[0].get_ylim()[1]) <= 1
        assert "untested: 100.0% (validation)" in texts(figure)
        plots.close(figure)


def test_many_strengths_of_regularization_are_legible(synthetic):
    for strengths in ([0.1], [0.1, 0.11, 0.12, 5.0]):
        losses = {strength: {"training": 0.02, "validation": 0.021} for strength in strengths}
        figure = plots.regularization_curve(losses, strengths[0])
        assert misprints(figure) == []
        assert figure.axes[0].get_ylim()[1] > 0.022  # the curves do not lie on the edge
        plots.close(figure)


def test_a_dark_style_does_not_hide_the_figures(empty):
    with plt.style.context("dark_background"):
        figure = plots.threshold(LABELS, PROBABILITIES, 0.5)
        figure.canvas.draw()
    assert to_rgb(figure.get_facecolor()[:3]) == (1, 1, 1)
    assert all(max(to_rgb(text.get_color())) < 0.5 for text in figure.findobj(plt.Text))
    plots.close(figure)


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
