"""Figures that compare: speedups over baselines, and accuracy against training time."""

from itertools import cycle

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import blended_transform_factory

from catsdogs.analysis.plots.style import (
    ACCENT,
    BAND,
    LINE,
    NOTE,
    SMALL,
    VAL,
    figure,
    fitted,
    legend,
    limit,
    set_title,
    styled,
)

_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
#: Headings of measurements whose rows have no words in common (see `speedups`).
_MEASUREMENTS = {"reading": "Reading JPEG files into arrays"}
_MARKERS = "os^DvP"
#: Colors that can be told apart without color vision, without those that are faint on white.
_COLORS = [sns.color_palette("colorblind")[index] for index in (0, 1, 2, 3, 4, 5, 7, 9)]


@styled
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
    made, axis = figure(width=9.6, height=1.2 + 0.2 * count)
    ticks, place = {}, 0.0
    for (measurement, baseline), group in groups.items():
        question, labels = _heading_and_labels(measurement, group)
        _group_heading(axis, place, question, f"baseline: {baseline}")
        axis.plot([1, 1], [place + 0.5, place + len(group) + 0.5], color=LINE, lw=1)
        for label, row in zip(labels, group):
            place += 1
            ticks[place] = label
            _dot_and_stem(axis, place, row["speedup"])
        place += 1.6
    made.suptitle(
        fitted(title, 9, size=11, weight="bold"),
        x=0.005,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    axis.set(
        xscale="log",
        xlabel="speedup, or reduction in memory (log scale; below 1 = slower, or more memory)",
        ylim=(place - 0.8, -1.4),
    )
    axis.text(1, -0.9, "1 = baseline", ha="center", va="center", fontsize=SMALL)
    found = [row["speedup"] for group in groups.values() for row in group]
    # Room for the values beside the outermost dots, however many decades the axis spans.
    low, high = min(found + [1]), max(found + [1])
    room = max(1.6, (high / low) ** 0.12)
    axis.set_xlim(low / room, high * room)
    axis.set_yticks(list(ticks), list(ticks.values()), fontsize=SMALL)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    _log_ticks(axis, few=high / low < 1000)
    return made


@styled
def accuracy_against_time(
    records: dict[str, dict], published: dict[str, tuple[float, float]]
) -> Figure:
    """Accuracy against training time, on a logarithmic scale: one color and shape per network.

    `records` are run records by label: a filled dot is the test accuracy with its 95% confidence
    interval, an open one the validation accuracy. `published` are ranges of accuracies, lowest and
    highest, by label; as their training time is not known, they are bands across.
    """
    made, axis = figure(width=9.6, height=4.6)
    handles: dict = {}
    for low, high in published.values():
        axis.axhspan(low - 0.0007, high + 0.0007, color=BAND, lw=0)
    for (label, record), color, marker in zip(records.items(), cycle(_COLORS), cycle(_MARKERS)):
        minutes, measured = max(record["seconds"], 1) / 60, record["metrics"]
        val = measured["val"]["accuracy"]
        axis.plot(minutes, val["value"], marker, mfc="none", color=color)
        if test := measured.get("test", {}).get("accuracy"):
            below, above = test["value"] - test["low"], test["high"] - test["value"]
            axis.errorbar(
                minutes, test["value"], [[below], [above]], fmt=marker, color=color, capsize=3
            )
        shown = f"{test['value']:.1%}" if test else f"{val['value']:.1%} (validation)"
        fill = color if test else "none"
        handles[f"{label}: {shown}"] = Line2D([], [], ls="", marker=marker, color=color, mfc=fill)
    set_title(axis, "Accuracy against training time")
    axis.set(xscale="log", xlabel="training time (minutes, log scale)", ylabel="accuracy")
    # At least a factor of 4, so that some tick of 1, 2, 5, 10 lies within.
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, (low * high) ** 0.5 / 2), max(high, (low * high) ** 0.5 * 2))
    _log_ticks(axis)
    limit(axis, low=0, high=1)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _label_bands(axis, published)
    handles["filled: test, with 95% CI"] = Line2D([], [], ls="", marker="o", color=NOTE)
    handles["open: validation"] = Line2D([], [], ls="", marker="o", mfc="none", color=NOTE)
    if published:
        handles["published by others, training time not known"] = Patch(color=BAND)
    legend(made, handles)
    return made


def _log_ticks(axis, few=True):
    """Ticks at 1, 2, 5, 10 … on the x axis, or at powers of 10 where these would be too many."""
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _group_heading(axis, place, text, note):
    """`text` in bold at the left edge of the figure, at `place` on the y axis, and then `note`."""
    heading = axis.text(
        0.005,
        place,
        text,
        transform=blended_transform_factory(axis.figure.transFigure, axis.transData),
        va="center",
        fontsize=8.5,
        fontweight="bold",
    )
    behind = axis.annotate(
        note,
        xy=(1, 0.5),
        xycoords=heading,
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        color=NOTE,
    )
    for part in (heading, behind):
        part.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # hides the grid
        part.set_in_layout(False)  # it reaches over the axes, whose place it must not change


def _dot_and_stem(axis, place, speedup):
    """One row of `speedups`: a dot, a stem to it from 1, and its value at the far side."""
    color, side = (VAL, 1) if speedup >= 1 else (ACCENT, -1)
    axis.plot([1, speedup], [place, place], color=color, lw=1.2)
    axis.plot(speedup, place, "o", ms=6, color=color)
    axis.annotate(
        f"{speedup:,.0f}×" if speedup >= 100 else f"{speedup:.2g}×",
        (speedup, place),
        (6 * side, 0),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="center",
        fontsize=SMALL,
    )


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
    """The labels of `accuracy_against_time`'s bands, right of the axes, none over another.

    A line leads from each band to its label, which may have had to make room for another.
    """
    low, high = axis.get_ylim()
    line = (high - low) * 0.044  # the height of a line of text, in units of the axis
    top = -np.inf
    for label, ends in sorted(published.items(), key=lambda item: sum(item[1])):
        text, middle = fitted(label, 2.1, size=7.5), sum(ends) / 2
        height = line * (text.count("\n") + 1.1)
        place = max(middle, top + height / 2)
        top = place + height / 2
        across = axis.get_yaxis_transform()
        axis.text(1.03, place, text, transform=across, va="center", fontsize=7.5, color=NOTE)
        axis.plot(
            [1, 1.025], [middle, place], transform=across, clip_on=False, color="#b9bec6", lw=0.8
        )
