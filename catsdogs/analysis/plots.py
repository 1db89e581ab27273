"""Figures: each function draws one and returns it, in one style."""

import functools
import io
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import blended_transform_factory
from scipy.stats import binomtest
from sklearn import metrics

from catsdogs import CLASS_NAMES
from catsdogs.data import dataset

TRAIN, VAL, ACCENT = "#8a8f98", "#1f6fb2", "#d1495b"
BAND, NOTE, LINE = "#e3e6ea", "#5f6670", "#30343a"
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
#: Headings of measurements whose rows have no words in common (see `speedups`).
_MEASUREMENTS = {"reading": "Reading JPEG files into arrays"}
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
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
        # Not plt.rc_context: leaving it would also undo that the notebook's backend shows figures.
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
    """Learning curves: loss and accuracy by epoch, for the training and the validation set.

    `history` is that of `keras.callbacks.History`: lists under ``loss``, ``val_loss``, ``accuracy``
    and ``val_accuracy``. `best_epoch`, from 1, is marked; `epochs` fixes the axis while training
    goes on; `others` maps names to the histories of earlier runs, whose validation curves are drawn
    behind.
    """
    figure, axes = _figure(1, 2, width=9.6, height=3.4)
    for axis, key, title in zip(axes, ("loss", "accuracy"), ("Loss", "Accuracy")):
        for index, (label, other) in enumerate((others or {}).items()):
            axis.plot(
                _epochs(other[f"val_{key}"]),
                other[f"val_{key}"],
                color=sns.color_palette("muted")[2 + index % 8],
                lw=1.2,
                label=f"{label} (validation)",
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
        axis.set(
            title=title,
            xlabel="epoch",
            ylabel="log loss" if key == "loss" else "accuracy",
            xlim=(0.5, (epochs or len(history[key])) + 0.5),
        )
        axis.xaxis.get_major_locator().set_params(integer=True)
        if key == "accuracy":
            # With as many digits as tell the ticks apart.
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.legend(fontsize=8)
    return figure


@_styled
def regularization_curve(losses: dict[float, dict[str, float]], chosen: float) -> Figure:
    """Log loss by C, the inverse regularization strength of a logistic regression.

    `losses` maps each value of C to the log loss of ``training`` and of ``validation``; `chosen` is
    one of its keys.
    """
    figure, axis = _figure(width=6.4, height=3.4)
    for subset, colour in (("training", TRAIN), ("validation", VAL)):
        axis.plot(
            list(losses),
            [loss[subset] for loss in losses.values()],
            "o-",
            ms=4,
            color=colour,
            label=subset,
        )
    value = losses[chosen]["validation"]
    axis.plot(chosen, value, "o", color=ACCENT, label=f"C = {chosen:g}, chosen: {value:.4f}")
    axis.set(
        title="Regularization",
        xlabel="C, inverse regularization strength (log scale; larger = less regularized)",
        ylabel="log loss",
        xscale="log",
        ylim=(0, None),
    )
    axis.set_xticks(list(losses), [f"{value:g}" for value in losses])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    return figure


@_styled
def label_error_probabilities(probabilities) -> Figure:
    """Histogram of label-error probabilities, (photos,), 0 to 1; counts on a logarithmic scale.

    They are the column ``label_error_probability`` of `catsdogs.analysis.audit.rank`.
    """
    figure, axis = _figure(width=7.2, height=2.8)
    axis.hist(probabilities, bins=np.linspace(0, 1, 51), color=VAL, log=True)
    axis.set(
        title="Label-error probability",
        xlabel="label-error probability (out-of-fold probability of the other class)",
        ylabel="photos (log scale)",
        xlim=(0, 1),
        ylim=(0.8, None),  # a single photo is a bar that can be seen
    )
    axis.yaxis.set_major_formatter("{x:,.0f}")
    return figure


@_styled
def speedups(rows: list[dict], *, title: str) -> Figure:
    """Speedups over a baseline: one dot per row, on a logarithmic scale, with a stem from 1.

    `rows` are those of ``benchmarks/bench.json``; ones without a ``speedup`` are left out. Rows of
    the same ``measurement`` and ``against`` (the baseline) form a group. Its heading has the parts
    of ``what``, between commas, that all its rows have in common, and a row's label the other ones.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["speedup"] is not None:
            groups.setdefault((row["measurement"], row["against"]), []).append(row)
    count = sum(len(group) + 1.6 for group in groups.values())
    figure, axis = _figure(width=9.6, height=0.9 + 0.2 * count)
    ticks, place = {}, 0.0
    for (measurement, baseline), group in groups.items():
        question, labels = _heading_and_labels(measurement, group)
        heading = axis.text(
            0.005,
            place,
            question,
            transform=blended_transform_factory(figure.transFigure, axis.transData),
            va="center",
            fontsize=8.5,
            fontweight="bold",
        )
        heading.set_in_layout(False)  # it may reach over the axes, whose place it must not change
        note = axis.annotate(
            f"baseline: {baseline}",
            xy=(1, 0.5),
            xycoords=heading,
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=NOTE,
        )
        note.set_in_layout(False)
        for text in (heading, note):  # the grid does not run through them
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        axis.plot([1, 1], [place + 0.5, place + len(group) + 0.5], color=LINE, lw=1)
        for label, row in zip(labels, group):
            place += 1
            ticks[place] = label
            speedup = row["speedup"]
            colour = VAL if speedup >= 1 else ACCENT
            axis.plot([1, speedup], [place, place], color=colour, lw=1.2)
            axis.plot(speedup, place, "o", ms=6, color=colour)
            axis.annotate(
                f"{speedup:.2g}×",
                (speedup, place),
                (6 if speedup >= 1 else -6, 0),
                textcoords="offset points",
                ha="left" if speedup >= 1 else "right",
                va="center",
                fontsize=8,
            )
        place += 1.6
    figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold")
    axis.set(
        xscale="log",
        xlabel="speedup, or reduction in memory (log scale; below 1 = slower, or more memory)",
        ylim=(place - 0.8, -1.4),
    )
    axis.text(1, -0.9, "1 = baseline", ha="center", va="center", fontsize=8)
    found = [row["speedup"] for group in groups.values() for row in group]
    axis.set_xlim(min(found + [1]) / 1.6, max(found + [1]) * 1.6)
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    return figure


@_styled
def accuracy_against_time(
    records: dict[str, dict], published: dict[str, tuple[float, float]]
) -> Figure:
    """Accuracy against training time, on a logarithmic scale: one colour per network.

    `records` are run records by label: a filled dot is the test accuracy with its 95% confidence
    interval, an open one the validation accuracy. `published` are ranges of accuracies, lowest and
    highest, by label; as their training time is not known, they are bands across.
    """
    figure, axis = _figure(width=9.6, height=5.6)
    for low, high in published.values():
        axis.axhspan(low - 0.0007, high + 0.0007, color=BAND, lw=0)
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
        title="Accuracy against training time",
        xscale="log",
        xlabel="training time (minutes, log scale)",
        ylabel="accuracy (filled: test, with 95% CI; open: validation)",
    )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter("{x:.0%}")
    _label_bands(axis, published)
    handles, labels = axis.get_legend_handles_labels()
    if published:
        handles.append(Patch(color=BAND))
        labels.append("published by others, training time not known")
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=2)
    return figure


@_styled
def confusion_matrix(confusion, *, title: str = "") -> Figure:
    """The confusion matrix, true labels as rows, predicted labels as columns, cat first.

    Each cell has its count and the count's share of its row.
    """
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
    axis.set(title=title, xlabel="predicted label", ylabel="true label")
    axis.tick_params(length=0)
    axis.grid(False)
    return figure


@_styled
def roc_and_precision_recall(labels, probabilities) -> Figure:
    """The ROC curve and the precision-recall curve; the dots are at threshold 0.5.

    `labels`, 0 for cat and 1 for dog, the positive class, and `probabilities` of "dog" have shape
    (photos,).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities).reshape(-1)
    figure, (roc, pr) = _figure(1, 2, width=9.6, height=3.8)
    false_rate, true_rate, _ = metrics.roc_curve(labels, probabilities)
    roc.plot(
        false_rate,
        true_rate,
        color=VAL,
        lw=2,
        label=f"area under the curve {metrics.roc_auc_score(labels, probabilities):.3f}",
    )
    roc.plot([0, 1], [0, 1], color=TRAIN, ls="--", lw=1, label="chance")
    predicted = probabilities > 0.5
    roc.plot(
        predicted[labels == 0].mean(),
        predicted[labels == 1].mean(),
        "o",
        color=ACCENT,
        label="threshold 0.5",
    )
    roc.set(
        title="ROC curve",
        xlabel="false positive rate",
        ylabel="true positive rate (recall)",
        ylim=(-0.02, 1.02),
    )
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    pr.plot(
        recall,
        precision,
        color=VAL,
        lw=2,
        label=f"average precision {metrics.average_precision_score(labels, probabilities):.3f}",
    )
    pr.axhline(labels.mean(), color=TRAIN, ls="--", lw=1, label="chance")
    if predicted.any():
        pr.plot(
            predicted[labels == 1].mean(),
            labels[predicted].mean(),
            "o",
            color=ACCENT,
            label="threshold 0.5",
        )
    pr.set(
        title="Precision-recall curve",
        xlabel="recall",
        ylabel="precision",
        ylim=(-0.02, 1.02),  # from 0, so that the legend is below the line of chance
    )
    roc.legend(fontsize=8, loc="lower right")
    pr.legend(fontsize=8, loc="lower left")
    return figure


@_styled
def calibration(labels, probabilities, *, bins: int = 10) -> Figure:
    """The calibration curve, or reliability diagram, and below it the number of photos.

    `labels`, 0 or 1, and `probabilities` of "dog" have shape (photos,). The probabilities are
    sorted into `bins` of equal width; each dot is a bin's fraction of dogs against its mean
    probability, with Wilson's 95% confidence interval.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float).reshape(-1)
    figure, (top, bottom) = _figure(2, 1, width=4.8, height=4.8, height_ratios=(3, 1), sharex=True)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    filled = [bin_of == index for index in range(bins) if (bin_of == index).any()]
    means = [probabilities[chosen].mean() for chosen in filled]
    fractions = np.array([labels[chosen].mean() for chosen in filled])
    intervals = [
        binomtest(int(labels[chosen].sum()), int(chosen.sum())).proportion_ci(0.95, "wilson")
        for chosen in filled
    ]
    below = [max(0, value - found.low) for value, found in zip(fractions, intervals)]
    above = [max(0, found.high - value) for value, found in zip(fractions, intervals)]
    top.plot([0, 1], [0, 1], color=TRAIN, ls="--", lw=1, label="perfectly calibrated")
    top.errorbar(
        means,
        fractions,
        [below, above],
        fmt="o-",
        color=VAL,
        lw=2,
        elinewidth=1,
        capsize=2,
        label="this model, with 95% CI",
    )
    top.set(title="Calibration", ylabel="fraction of dogs", ylim=(-0.05, 1.05))
    top.legend(fontsize=8, loc="upper left")
    bottom.hist(probabilities, bins=np.linspace(0, 1, 2 * bins + 1), color=VAL)
    bottom.set(xlabel="predicted probability of dog", ylabel="photos")
    _count_axis(bottom, 3)
    return figure


@_styled
def threshold(labels, probabilities, value: float) -> Figure:
    """Histograms of the predicted probability of "dog" by true label, about the threshold `value`.

    `labels`, 0 or 1, and `probabilities` have shape (photos,). The title has accuracy, precision
    and recall at that threshold.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities).reshape(-1)
    predicted = probabilities > value
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
    axis.axvline(value, color="black", lw=1.5, label="threshold")
    precision = f"{labels[predicted].mean():.1%}" if predicted.any() else "–"
    axis.set(
        title=f"Threshold {value:.2f}: accuracy {np.mean(predicted == labels):.1%}, "
        f"precision {precision}, recall {predicted[labels == 1].mean():.1%}",
        xlabel="predicted probability of dog",
        ylabel="photos",
    )
    _count_axis(axis)
    # Beside the axes: within them the threshold may be anywhere.
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@_styled
def photo_grid(images, titles, *, columns: int = 6, maps=None, size: float = 1.7) -> Figure:
    """A grid of photos, (photos, height, width, 3), 0 to 255, each with its title.

    `maps`, heatmaps of shape (photos, height, width), 0 to 1, are laid over them; `size` is the
    width of a photo in inches.
    """
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
    """The filters of a first convolution as RGB images, each scaled to 0 to 1.

    `kernel` has shape (height, width, 3, filters).
    """
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
    """Width against height, and the file sizes, of the readable photos of `table`.

    `table` is that of `catsdogs.data.check.check_photos`.
    """
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
        xlabel="width (pixels)",
        ylabel="height (pixels)",
        xlim=(0, None),
        ylim=(0, None),
    )
    right.set(title="File size", xlabel="file size (kB)", ylabel="photos")
    _count_axis(right)
    for axis in (left, right):
        axis.legend(fontsize=8)
    return figure


@_styled
def learning_rate(schedule, steps: int, steps_per_epoch: int) -> Figure:
    """The learning rate by epoch: `schedule` is a Keras schedule over `steps` training steps."""
    figure, axis = _figure(width=6.4, height=2.6)
    shown = np.linspace(0, steps, 200).astype(int)
    axis.plot(shown / steps_per_epoch, [float(schedule(step)) for step in shown], color=VAL, lw=2)
    axis.set(title="Learning rate", xlabel="epoch", xlim=(0, steps / steps_per_epoch))
    axis.set_ylim(0, None)
    return figure


def to_png(figure: Figure) -> bytes:
    """`figure` as a PNG file; the figure is closed."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    close(figure)
    return content.getvalue()


def close(figure: Figure) -> None:
    """Close `figure`, so that a notebook does not show it again and its memory is freed."""
    plt.close(figure)


def _epochs(values):
    return np.arange(1, len(values) + 1)


def _count_axis(axis, ticks=8):
    """Whole numbers on the y axis, with thousands separators."""
    axis.yaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axis.yaxis.set_major_formatter("{x:,.0f}")


def _heading_and_labels(measurement, rows):
    """The heading of a group of `speedups`, and the label of each of its rows."""
    parts = [row["what"].split(", ") for row in rows]
    for some in parts:
        if some[0] == "the same":
            some[0] = parts[0][0]
    common = [part for part in parts[0] if all(part in some for some in parts)]
    heading = ", ".join(common) or _MEASUREMENTS.get(measurement, measurement)
    labels = [
        ", ".join(
            [
                _BACKENDS.get(row["backend"], row["backend"]),
                *(part for part in some if part not in common),
            ]
        )
        for row, some in zip(rows, parts)
    ]
    return heading[:1].upper() + heading[1:], labels


def _label_bands(axis, published):
    """The labels of `accuracy_against_time`'s bands, right of the axes, none over another."""
    low, high = axis.get_ylim()
    line = (high - low) * 0.034  # the height of a line of text, in units of the axis
    top = -np.inf
    for label, ends in sorted(published.items(), key=lambda item: sum(item[1])):
        text = textwrap.fill(label, 40)
        height = line * (text.count("\n") + 1)
        place = max(sum(ends) / 2, top + height / 2)
        top = place + height / 2
        axis.text(
            1.01,
            place,
            text,
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=7.5,
            color=NOTE,
        )


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
        # A number from synthetic photos must not be mistaken for a real one, wherever it ends up.
        # As the figure's own label it gets a line of its own, below the labels of the axes.
        figure.supxlabel(
            "synthetic sample, not photos", x=0.995, ha="right", fontsize=8, color=ACCENT
        )
    return figure, axes
