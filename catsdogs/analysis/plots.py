"""Figures: each function draws one and returns it."""

import functools
import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from sklearn import metrics
from sklearn.calibration import calibration_curve

from catsdogs import CLASS_NAMES
from catsdogs.data import dataset

TRAIN, VAL, ACCENT = "#8a8f98", "#1f6fb2", "#d1495b"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.edgecolor": "#9aa0a6",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


def _styled(function):
    """Draw with the style of this module and leave the reader's own settings as they are."""

    @functools.wraps(function)
    def draw(*arguments, **options):
        # Not plt.rc_context: it would also take back that the notebook's backend shows figures by itself.
        before = {key: plt.rcParams[key] for key in _STYLE}
        plt.rcParams.update(_STYLE)
        try:
            return function(*arguments, **options)
        finally:
            plt.rcParams.update(before)

    return draw


@_styled
def curves(
    history: dict,
    *,
    best_epoch: int | None = None,
    epochs: int | None = None,
    others: dict[str, dict] | None = None,
) -> Figure:
    """Loss and accuracy by epoch, from `history` as Keras keeps it (``loss``, ``val_loss``, ``accuracy``, …).

    `best_epoch` is marked; `epochs` fixes the axis while training goes on; `others` maps names to the
    histories of earlier runs, whose validation curves are synthetic behind.
    """
    figure, axes = _figure(1, 2, width=9.6, height=3.4)
    for axis, key, title in zip(axes, ("loss", "accuracy"), ("Loss", "Accuracy")):
        for index, (label, other) in enumerate((others or {}).items()):
            axis.plot(
                _epochs(other[f"val_{key}"]),
                other[f"val_{key}"],
                color=sns.color_palette("muted")[2 + index % 8],
                lw=1.2,
                label=f"{label} (val)",
            )
        axis.plot(_epochs(history[key]), history[key], color=TRAIN, label="training")
        axis.plot(
            _epochs(history[f"val_{key}"]),
            history[f"val_{key}"],
            color=VAL,
            lw=2,
            label="validation",
        )
        if best_epoch:
            value = history[f"val_{key}"][best_epoch - 1]
            text = f"{value:.1%}" if key == "accuracy" else f"{value:.3f}"
            axis.plot(
                best_epoch, value, "o", color=ACCENT, label=f"epoch {best_epoch}, kept: {text}"
            )
        axis.set(title=title, xlabel="epoch", xlim=(0.5, (epochs or len(history[key])) + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True)
        if key == "accuracy":
            axis.yaxis.set_major_formatter(
                PercentFormatter(1.0)
            )  # as many digits as tell the marks apart
        axis.legend(fontsize=8)
    return figure


@_styled
def strengths(losses: dict[float, dict[str, float]], chosen: float) -> Figure:
    """Log loss by a head's strength (see notebook 06): `losses` maps each to that of ``training`` and of ``validation``."""
    figure, axis = _figure(width=6.4, height=3.4)
    for split, colour in (("training", TRAIN), ("validation", VAL)):
        axis.plot(
            list(losses),
            [loss[split] for loss in losses.values()],
            "o-",
            ms=4,
            color=colour,
            label=split,
        )
    value = losses[chosen]["validation"]
    axis.plot(chosen, value, "o", color=ACCENT, label=f"{chosen:g}, chosen: {value:.4f}")
    axis.set(
        title="Log loss",
        xlabel="strength: the larger, the closer to the training photos",
        xscale="log",
        ylim=(0, None),
    )
    axis.legend(fontsize=8)
    return figure


@_styled
def doubt(doubts) -> Figure:
    """How doubtful labels are: `doubts`, (photos,), 0 to 1, as `catsdogs.analysis.audit.rank` gives them; counts on a logarithmic scale."""
    figure, axis = _figure(width=7.2, height=2.8)
    axis.hist(doubts, bins=np.linspace(0, 1, 51), color=VAL, log=True)
    axis.set(
        title="Doubt",
        xlabel="probability that the label is the other one",
        ylabel="photos",
        xlim=(0, 1),
    )
    return figure


@_styled
def comparison(rows: list[dict], *, title: str) -> Figure:
    """A bar a row of a benchmark: ``times``, how many times better ours is; ``wanted``, where given, as a mark."""
    figure, axis = _figure(width=9.6, height=0.9 + 0.3 * len(rows))
    labels = [f"{row['what']}, {row['backend']}\nagainst {row['against']}" for row in rows]
    axis.barh(labels, [row["speedup"] for row in rows], color=VAL, height=0.6)
    for index, row in enumerate(rows):
        axis.text(row["speedup"] * 1.04, index, f"{row['speedup']:.2g}×", va="center", fontsize=8)
        if row["target"]:
            axis.plot(
                [row["target"]] * 2,
                [index - 0.4, index + 0.4],
                color=ACCENT,
                lw=2,
                label=None if axis.get_legend_handles_labels()[1] else "wanted",
            )
    axis.axvline(1, color="#30343a", lw=1)
    axis.set(title=title, xscale="log", xlabel="times better than the peer")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=7)
    axis.legend(loc="lower right")
    return figure


@_styled
def networks(records: dict[str, dict], published: dict[str, tuple[float, float]]) -> Figure:
    """Accuracy against training time, on a logarithmic scale: a dot a network, from run `records` by label.

    Full dots are test accuracies, with their intervals, empty ones validation accuracies. `published` are ranges of
    accuracies whose time is not known, by label: bands across.
    """
    figure, axis = _figure(width=9.6, height=5.6)
    for label, (low, high) in published.items():
        axis.axhspan(low - 0.0007, high + 0.0007, color="#e3e6ea", lw=0)
        axis.text(
            0.005,
            (low + high) / 2,
            f"{label}, published",
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color="#5f6670",
        )
    for index, (label, record) in enumerate(records.items()):
        minutes, color = record["seconds"] / 60, sns.color_palette("deep")[index % 10]
        axis.plot(
            minutes, record["metrics"]["val"]["accuracy"]["value"], "o", mfc="none", color=color
        )
        if test := record["metrics"].get("test", {}).get("accuracy"):
            axis.errorbar(
                minutes,
                test["value"],
                [[test["value"] - test["low"]], [test["high"] - test["value"]]],
                fmt="o",
                color=color,
                capsize=3,
                label=f"{label}: {test['value']:.1%}",
            )
    axis.set(
        title="Accuracy on test photos, with 95% intervals; empty: on validation photos",
        xscale="log",
        xlabel="minutes of training, on a logarithmic scale",
    )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.set_xlim(axis.get_xlim()[0] / 9, None)  # room for what was published
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


@_styled
def confusion_matrix(confusion, *, title: str = "") -> Figure:
    """The confusion matrix, [[cats called cat, cats called dog], [dogs called cat, dogs called dog]]."""
    confusion = np.asarray(confusion)
    shares = confusion / confusion.sum(1, keepdims=True)
    texts = [
        [f"{count:,}\n{share:.1%}" for count, share in zip(*row)] for row in zip(confusion, shares)
    ]
    figure, axis = _figure(width=4.4, height=3.8)
    sns.heatmap(
        shares,
        annot=np.array(texts),
        fmt="",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        cbar=False,
        linewidths=2,
        ax=axis,
        annot_kws={"size": 13},
        xticklabels=CLASS_NAMES,
        yticklabels=CLASS_NAMES,
    )
    axis.set(title=title, xlabel="the model says", ylabel="the photo shows")
    axis.tick_params(length=0)
    axis.grid(False)
    return figure


@_styled
def roc_and_precision_recall(labels, probabilities) -> Figure:
    """The ROC and the precision-recall curve of the probabilities of "dog"; the dots are at 0.5."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities).reshape(-1)
    figure, (roc, pr) = _figure(1, 2, width=9.6, height=3.8)
    false_rate, true_rate, _ = metrics.roc_curve(labels, probabilities)
    roc.plot(
        false_rate,
        true_rate,
        color=VAL,
        lw=2,
        label=f"area {metrics.roc_auc_score(labels, probabilities):.3f}",
    )
    roc.plot([0, 1], [0, 1], color=TRAIN, ls="--", lw=1, label="guessing")
    called = probabilities > 0.5
    roc.plot(
        called[labels == 0].mean(),
        called[labels == 1].mean(),
        "o",
        color=ACCENT,
        label="threshold 0.5",
    )
    roc.set(title="ROC", xlabel="share of cats called dog", ylabel="share of dogs called dog")
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    pr.plot(
        recall,
        precision,
        color=VAL,
        lw=2,
        label=f"average precision {metrics.average_precision_score(labels, probabilities):.3f}",
    )
    pr.axhline(labels.mean(), color=TRAIN, ls="--", lw=1, label="guessing")
    if called.any():
        pr.plot(
            called[labels == 1].mean(),
            labels[called].mean(),
            "o",
            color=ACCENT,
            label="threshold 0.5",
        )
    pr.set(
        title="Precision and recall",
        xlabel="recall: share of dogs called dog",
        ylabel="precision: share of dogs\namong those called dog",
        ylim=(0.4, 1.02),
    )
    for axis in (roc, pr):
        axis.legend(fontsize=8, loc="lower right" if axis is roc else "lower left")
    return figure


@_styled
def calibration(labels, probabilities, *, bins: int = 10) -> Figure:
    """Reliability: of photos given a probability of "dog", how many are dogs; below, how many there are."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities).reshape(-1)
    figure, (top, bottom) = _figure(2, 1, width=4.8, height=4.8, height_ratios=(3, 1), sharex=True)
    dogs, said = calibration_curve(labels, probabilities, n_bins=bins)
    top.plot([0, 1], [0, 1], color=TRAIN, ls="--", lw=1, label="as sure as it should be")
    top.plot(said, dogs, "o-", color=VAL, lw=2, label="this model")
    top.set(title="Calibration", ylabel="share that are dogs")
    top.legend(fontsize=8)
    bottom.hist(probabilities, bins=np.linspace(0, 1, 2 * bins + 1), color=VAL)
    bottom.set(xlabel="probability of dog", ylabel="photos")
    return figure


@_styled
def threshold(labels, probabilities, value: float) -> Figure:
    """How the probabilities of cats and dogs lie about the threshold `value`, and what it makes of them."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities).reshape(-1)
    called = probabilities > value
    figure, axis = _figure(width=7.2, height=3.2)
    edges = np.linspace(0, 1, 41)
    for label, colour in ((0, ACCENT), (1, VAL)):
        axis.hist(
            probabilities[labels == label],
            bins=edges,
            color=colour,
            alpha=0.6,
            label=f"{CLASS_NAMES[label]}s",
        )
    axis.axvline(value, color="black", lw=1.5)
    precision = f"{labels[called].mean():.1%}" if called.any() else "–"
    axis.set(
        title=f"Threshold {value:.2f}: accuracy {np.mean(called == labels):.1%}, precision {precision}, "
        f"recall {called[labels == 1].mean():.1%}",
        xlabel="probability of dog",
        ylabel="photos",
    )
    axis.legend(fontsize=8, loc="upper center")
    return figure


@_styled
def photo_grid(images, titles, *, columns: int = 6, maps=None, size: float = 1.7) -> Figure:
    """Photos, (photos, height, width, 3), 0 to 255, in a grid with a title each; `maps`, 0 to 1, laid over them."""
    rows = -(-len(images) // columns)
    figure, axes = _figure(rows, columns, width=columns * size, height=rows * (size + 0.3))
    for axis in np.ravel(axes):
        axis.axis("off")
    for index, (axis, image, title) in enumerate(zip(np.ravel(axes), images, titles)):
        axis.imshow(np.asarray(image).astype(np.uint8))
        if maps is not None:
            axis.imshow(maps[index], cmap="inferno", alpha=0.5, vmin=0, vmax=1)
        axis.set_title(title, fontsize=8, fontweight="normal", loc="center")
    return figure


@_styled
def filters(kernel, *, columns: int = 16) -> Figure:
    """The filters of a first convolution: `kernel` of shape (height, width, 3, filters), each scaled to 0 to 1."""
    kernel = np.moveaxis(np.asarray(kernel), -1, 0)
    low, high = kernel.min((1, 2, 3), keepdims=True), kernel.max((1, 2, 3), keepdims=True)
    pictures = (kernel - low) / np.maximum(high - low, 1e-9)
    rows = -(-len(pictures) // columns)
    figure, axes = _figure(rows, columns, width=9.6, height=0.6 * rows + 0.1)
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, picture in zip(np.ravel(axes), pictures):
        axis.imshow(picture, interpolation="nearest")
    return figure


@_styled
def sizes(table) -> Figure:
    """Width against height of the good photos of `catsdogs.data.check.check_photos`' table, and bytes a photo."""
    good = table[table.problem == ""]
    figure, (left, right) = _figure(1, 2, width=9.6, height=3.6)
    for label, colour in ((0, ACCENT), (1, VAL)):
        rows = good[good.label == label]
        left.plot(
            rows.width,
            rows.height,
            ".",
            ms=5,
            alpha=0.3,
            color=colour,
            label=f"{CLASS_NAMES[label]}s",
        )
        right.hist(
            rows.bytes / 1000, bins=50, alpha=0.6, color=colour, label=f"{CLASS_NAMES[label]}s"
        )
    left.set(
        title="Width and height",
        xlabel="width, pixels",
        ylabel="height, pixels",
        xlim=(0, None),
        ylim=(0, None),
    )
    right.set(title="Size of the files", xlabel="kB", ylabel="photos")
    for axis in (left, right):
        axis.legend(fontsize=8)
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file; the figure is closed."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    close(figure)
    return content.getvalue()


def close(figure: Figure) -> None:
    """Forget a figure that has been shown, so that it is not shown again and its memory is freed."""
    plt.close(figure)


def _epochs(values):
    return np.arange(1, len(values) + 1)


def _figure(rows=1, columns=1, *, width, height, height_ratios=None, **options):
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        layout="constrained",
        gridspec_kw={"height_ratios": height_ratios},
        **options,
    )
    if dataset.is_synthetic():
        # A number from synthetic photos must not be mistaken for one from photos, wherever it ends up.
        figure.text(
            0.995,
            0.005,
            "synthetic sample, not photos",
            ha="right",
            va="bottom",
            fontsize=8,
            color=ACCENT,
        )
    return figure, axes
