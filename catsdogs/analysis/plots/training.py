"""Figures of a training run: learning curves, the learning rate, the choice of regularization."""

from itertools import cycle

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from catsdogs.analysis.plots.style import (
    ACCENT,
    TRAIN,
    VAL,
    figure,
    legend,
    limit,
    set_title,
    styled,
)

SHORT = 15  # epochs: up to here each has a marker; a single one would be no line at all
#: Of the colors that can be told apart without color vision, those unlike `TRAIN` and `VAL`.
_COLORS = [sns.color_palette("colorblind")[index] for index in (1, 2, 4, 3, 5)]
_DASHES = ("--", ":", "-.")


@styled
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
    behind. The titles say from which epoch on a value is not finite, as it is after divergence.
    """
    others = others or {}
    runs = [history, *others.values()]
    longest = max(epochs or 0, *(len(run["loss"]) for run in runs), 1)
    made, axes = figure(1, 2, width=9.6, height=3.2)
    for axis, key, name in zip(axes, ("loss", "accuracy"), ("Loss", "Accuracy")):
        for (label, other), color, dashes in zip(others.items(), cycle(_COLORS), cycle(_DASHES)):
            _line(axis, other[f"val_{key}"], f"{label} (validation)", color, lw=1.4, ls=dashes)
        _line(axis, history[key], "training", TRAIN)
        _line(axis, history[f"val_{key}"], "validation", VAL, lw=2)
        if best_epoch and np.isfinite(history["val_loss"][best_epoch - 1]):
            value = history[f"val_{key}"][best_epoch - 1]
            axis.plot(best_epoch, value, "o", color=ACCENT, label=_kept(history, best_epoch))
        set_title(axis, name + _divergence(history[key], history[f"val_{key}"]))
        axis.set(
            xlabel="epoch",
            ylabel="log loss" if key == "loss" else "accuracy",
            xlim=(0.5, longest + 0.5),
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    limit(axes[0], low=0)
    limit(axes[1], low=0, high=1)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))  # as many digits as tell ticks apart
    legend(made)
    return made


@styled
def learning_rate(schedule, steps: int, steps_per_epoch: int) -> Figure:
    """The learning rate by epoch: `schedule` is a Keras schedule over `steps` training steps."""
    made, axis = figure(width=6.4, height=2.6)
    shown = np.linspace(0, steps, 200).astype(int)
    axis.plot(shown / steps_per_epoch, [float(schedule(step)) for step in shown], color=VAL, lw=2)
    set_title(axis, "Learning rate")
    axis.set(xlabel="epoch", ylabel="learning rate", xlim=(0, steps / steps_per_epoch))
    axis.set_ylim(0, None)
    return made


@styled
def regularization_curve(losses: dict[float, dict[str, float]], chosen: float) -> Figure:
    """Log loss by C, the inverse regularization strength of a logistic regression.

    `losses` maps each value of C to the log loss of ``training`` and of ``validation``; `chosen` is
    one of its keys.
    """
    made, axis = figure(width=6.4, height=3.2)
    strengths = sorted(losses)
    for subset, color in (("training", TRAIN), ("validation", VAL)):
        values = [losses[strength][subset] for strength in strengths]
        axis.plot(strengths, values, "o-", ms=4, color=color, label=subset)
    value = losses[chosen]["validation"]
    axis.plot(chosen, value, "o", color=ACCENT, label=f"C = {chosen:g}, chosen: {value:.4f}")
    set_title(axis, "Regularization")
    axis.set(
        xlabel="C, inverse regularization strength (log scale; larger = less regularized)",
        ylabel="log loss",
        xscale="log",
    )
    axis.set_ylim(0, 1.1 * max(max(loss.values()) for loss in losses.values()))
    # The values themselves, unless their labels would run into each other.
    if len(strengths) > 1 and np.diff(np.log(strengths)).min() * 11 < np.ptp(np.log(strengths)):
        axis.xaxis.set_major_locator(LogLocator(numticks=9))
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
    axis.xaxis.set_minor_locator(NullLocator())
    legend(made)
    return made


def _line(axis, values, label, color, **options):
    values = np.asarray(values, float)
    marker = "o" if len(values) <= SHORT else None
    axis.plot(
        np.arange(1, len(values) + 1),
        values,
        marker=marker,
        ms=4,
        color=color,
        label=label,
        **options,
    )


def _kept(history, epoch):
    loss, accuracy = (history[key][epoch - 1] for key in ("val_loss", "val_accuracy"))
    return f"epoch {epoch}, kept: {accuracy:.1%}, log loss {loss:.3f}"


def _divergence(*measures):
    """What to say behind a title of values that are not finite."""
    finite = np.isfinite(np.array(measures, float)).all(0)
    return "" if finite.all() else f": not finite from epoch {np.argmin(finite) + 1}"
