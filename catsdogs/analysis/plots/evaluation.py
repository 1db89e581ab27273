"""Figures of predictions against labels: confusion matrix, curves, calibration, thresholds.

`labels`, 0 for cat and 1 for dog, the positive class, and `probabilities` of "dog" have shape
(photos,). There may be few photos, and of one class only.
"""

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import binomtest
from sklearn import metrics

from catsdogs import CLASS_NAMES
from catsdogs.analysis.metrics import checked
from catsdogs.analysis.plots.style import (
    ACCENT,
    TRAIN,
    VAL,
    count_axis,
    figure,
    legend,
    note,
    set_title,
    styled,
)


@styled
def confusion_matrix(confusion, *, title: str = "") -> Figure:
    """The confusion matrix, true labels as rows, predicted labels as columns, cat first.

    Each cell has its count and the count's share of its row.
    """
    confusion = np.asarray(confusion)
    totals = confusion.sum(1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    texts = [
        [f"{count:,}\n{_percent(count, total)}" for count in row]
        for row, (total,) in zip(confusion, totals)
    ]
    made, axis = figure(width=4.4, height=3.8)
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
    set_title(axis, title)
    axis.set(xlabel="predicted label", ylabel="true label")
    axis.tick_params(length=0)
    axis.grid(False)
    return made


@styled
def roc_and_precision_recall(labels, probabilities) -> Figure:
    """The ROC curve and the precision-recall curve; the dots are at threshold 0.5.

    Neither is defined for photos of one class: the figure says so then.
    """
    labels, probabilities = checked(labels, probabilities)
    made, axes = figure(1, 2, width=9.6, height=3.6)
    roc, pr = axes
    set_title(roc, "ROC curve")
    set_title(pr, "Precision-recall curve")
    roc.set(xlabel="false positive rate", ylabel="true positive rate (recall)")
    pr.set(xlabel="recall", ylabel="precision")
    for axis in axes:
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if len(set(labels)) < 2:
        for axis in axes:
            note(axis, f"no curve: {_one_class(labels)}, and it takes photos of both classes")
        return made

    area = metrics.roc_auc_score(labels, probabilities)
    average = metrics.average_precision_score(labels, probabilities)
    model = f"this model: area under the ROC curve {area:.3f}, average precision {average:.3f}"
    false_rate, true_rate, _ = metrics.roc_curve(labels, probabilities)
    roc.plot(false_rate, true_rate, color=VAL, lw=2, label=model)
    roc.plot([0, 1], [0, 1], color=TRAIN, ls="--", lw=1, label="chance")
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    # In steps, as between two thresholds there is no precision but theirs.
    pr.plot(recall, precision, color=VAL, lw=2, drawstyle="steps-post")
    pr.axhline(labels.mean(), color=TRAIN, ls="--", lw=1)

    predicted = probabilities > 0.5
    found = predicted[labels == 1].mean()
    roc.plot(predicted[labels == 0].mean(), found, "o", color=ACCENT, label="threshold 0.5")
    if predicted.any():
        pr.plot(found, labels[predicted].mean(), "o", color=ACCENT)
    legend(made)
    return made


@styled
def calibration(labels, probabilities, *, bins: int = 10) -> Figure:
    """The calibration curve, or reliability diagram, and below it the number of photos.

    The probabilities are sorted into `bins` of equal width; each dot is a bin's fraction of dogs
    against its mean probability, with Wilson's 95% confidence interval.
    """
    labels, probabilities = checked(labels, probabilities)
    made, (top, bottom) = figure(2, 1, width=4.8, height=4.8, height_ratios=(3, 1), sharex=True)
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
    set_title(top, "Calibration")
    top.set(ylabel="fraction of dogs", xlim=(-0.02, 1.02), ylim=(-0.05, 1.05))
    bottom.hist(probabilities, bins=np.linspace(0, 1, 2 * bins + 1), color=VAL)
    bottom.set(xlabel="predicted probability of dog", ylabel="photos")
    count_axis(bottom, 3)
    legend(made)
    return made


@styled
def threshold(labels, probabilities, value: float) -> Figure:
    """Histograms of the predicted probability of "dog" by true label, about the threshold `value`.

    The title has accuracy, precision and recall at that threshold.
    """
    labels, probabilities = checked(labels, probabilities)
    predicted = probabilities > value
    made, axis = figure(width=7.2, height=3)
    edges = np.linspace(0, 1, 41)
    for label, color in ((0, ACCENT), (1, VAL)):
        axis.hist(
            probabilities[labels == label],
            bins=edges,
            color=color,
            alpha=0.6,
            label=f"{CLASS_NAMES[label]}s",
        )
    axis.axvline(value, color="black", lw=1.5, label="threshold")
    right = int((predicted & (labels == 1)).sum())
    set_title(
        axis,
        f"Threshold {value:.2f}: accuracy {np.mean(predicted == labels):.1%}, "
        f"precision {_percent(right, predicted.sum())}, recall {_percent(right, labels.sum())}",
    )
    axis.set(xlabel="predicted probability of dog", ylabel="photos", xlim=(-0.02, 1.02))
    count_axis(axis)
    legend(made)
    return made


@styled
def label_error_probabilities(probabilities) -> Figure:
    """Histogram of label-error probabilities, (photos,), 0 to 1; counts on a logarithmic scale.

    They are the column ``label_error_probability`` of `catsdogs.analysis.audit.rank`.
    """
    made, axis = figure(width=7.2, height=2.8)
    axis.hist(probabilities, bins=np.linspace(0, 1, 51), color=VAL, log=True)
    set_title(axis, "Label-error probability")
    axis.set(
        xlabel="label-error probability (out-of-fold probability of the other class)",
        ylabel="photos (log scale)",
        xlim=(0, 1),
        ylim=(0.8, max(axis.get_ylim()[1], 1.2)),  # a single photo is a bar that can be seen
    )
    few = axis.get_ylim()[1] < 100
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    return made


def _percent(part, whole):
    return f"{part / whole:.1%}" if whole else "–"


def _one_class(labels):
    return f"all {len(labels):,} photos are {CLASS_NAMES[labels[0]]}s"
