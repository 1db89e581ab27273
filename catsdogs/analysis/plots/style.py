"""What all figures share: colors, the frame of a figure, its legend, and text that fits."""

import functools
import io
import textwrap
import threading

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from catsdogs.data import dataset
from catsdogs.text import printable

# Blue, red and gray differ in lightness too, so they can be told apart without color vision.
TRAIN, VAL, ACCENT = "#8a8f98", "#1f6fb2", "#d1495b"
BAND, NOTE, LINE = "#e3e6ea", "#5f6670", "#30343a"

SMALL = 8  # points: legends, and the titles of photos
_INK, _PAPER, _FRAME = "#1d2126", "white", "#9aa0a6"
_STYLE = {
    # All of it is set, as a reader may use a dark style, whose white text would be lost on white.
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.titlecolor": "auto",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "axes.edgecolor": _FRAME,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "figure.dpi": 100,
}
_lock = threading.RLock()  # matplotlib's settings are those of all threads
_STRIP = 0.25  # inches, for the mark of the synthetic sample


def styled(function):
    """Draw with the style of this module and leave the reader's own settings as they are."""

    @functools.wraps(function)
    def draw(*arguments, **options):
        # Not plt.rc_context: leaving it would also undo that the notebook's backend shows figures.
        with _lock:
            before = {key: plt.rcParams[key] for key in _STYLE}
            plt.rcParams.update(_STYLE)
            try:
                drawn = function(*arguments, **options)
                drawn.draw_without_rendering()  # makes the ticks, which would have another style
                return drawn
            finally:
                plt.rcParams.update(before)

    return draw


def figure(rows: int = 1, columns: int = 1, *, width: float, height: float, **options):
    """A figure and its axes, as `plt.subplots` returns them; `width` and `height` are in inches."""
    size = (width, height)
    if threading.current_thread() is threading.main_thread():
        made, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
    else:  # that of a panel: pyplot would show its figures below the cell that runs meanwhile
        made = Figure(figsize=size, layout="constrained")
        axes = made.subplots(rows, columns, **options)
    if dataset.is_synthetic():
        # A number from synthetic photos must not be mistaken for a real one, wherever it ends up.
        made.text(
            0.995,
            0.06,
            "synthetic sample, not photos",
            transform=blended_transform_factory(made.transFigure, made.dpi_scale_trans),
            ha="right",
            fontsize=SMALL,
            color=ACCENT,
        )
    _reserve(made, _strip())
    return made, axes


def legend(of: Figure, handles: dict | None = None) -> None:
    """One legend for all axes of a figure, below them.

    `handles` maps labels to what they stand for; by default, it is everything with a label. The
    figure grows by the height of the legend, which has as many columns as fit.
    """
    if handles is None:
        handles = {
            label: handle
            for axis in of.axes
            for handle, label in zip(*axis.get_legend_handles_labels())
        }
    texts = [fitted(label, of.get_figwidth() - 1) for label in handles]
    for columns in range(min(len(texts), 4), 0, -1):
        made = of.legend(handles.values(), texts, loc="lower center", ncols=columns, fontsize=SMALL)
        for text in made.get_texts():
            text.set_parse_math(False)  # a name may hold dollar signs
        extent = made.get_window_extent()
        if extent.width <= 0.97 * of.bbox.width or columns == 1:
            break
        made.remove()
    _reserve(of, _strip() + extent.height / of.dpi, already=_strip())
    made.set_bbox_to_anchor((0.5, _strip() / of.get_figheight()), of.transFigure)


def set_title(axis, text: str) -> None:
    """Set the title of `axis`, in as many lines as its figure is wide."""
    inches = axis.figure.get_figwidth() / axis.get_gridspec().ncols
    axis.set_title(fitted(text, inches - 0.8, size=11, weight="bold"), parse_math=False)


def note(axis, text: str) -> None:
    """Write `text` into the middle of `axis`, in place of what cannot be drawn."""
    axis.text(
        0.5,
        0.5,
        fitted(text, 2.4, size=10),
        transform=axis.transAxes,
        ha="center",
        va="center",
        color=NOTE,
        parse_math=False,
    )


def count_axis(axis, ticks: int = 8) -> None:
    """Whole numbers on the y axis, from 0, with thousands separators."""
    axis.set_ylim(0, max(1.0, axis.get_ylim()[1]))
    axis.yaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axis.yaxis.set_major_formatter("{x:,.0f}")


def limit(axis, low: float | None = None, high: float | None = None) -> None:
    """Keep the y axis from `low` to `high`, with a little room for the lines that lie on them."""
    bottom, top = axis.get_ylim()
    room = (top - bottom) * 0.03
    axis.set_ylim(
        bottom if low is None else max(bottom, low - room),
        top if high is None else min(top, high + room),
    )


def fitted(text: str, inches: float, *, size: float = SMALL, weight: str = "normal") -> str:
    """`text` in lines of at most `inches`, without characters that the font does not have."""
    font = FontProperties(size=size, weight=weight)
    known = get_font(findfont(font)).get_charmap()
    lines: list[str] = []
    for line in str(text).split("\n"):
        line = "".join(c if ord(c) in known else "□" for c in printable(line))
        width = text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] / 72
        characters = len(line) if width <= inches else int(len(line) * inches / width * 0.95)
        lines += textwrap.wrap(line, max(characters, 1)) or [""]
    return "\n".join(lines)


def to_png(made: Figure) -> bytes:
    """The figure as a PNG file; the figure is closed."""
    content = io.BytesIO()
    made.savefig(content, format="png", dpi=100)
    close(made)
    return content.getvalue()


def close(made: Figure) -> None:
    """Close a figure, so that a notebook does not show it again and its memory is freed."""
    plt.close(made)


def _strip():
    """How many inches at the bottom of a figure are for the mark of the synthetic sample."""
    return _STRIP if dataset.is_synthetic() else 0.0


def _reserve(made, inches, *, already=0.0):
    """Keep the axes out of the lowest `inches` of a figure, which grows by as much.

    Not with the legend's own place outside the axes, which would be that of the mark as well.
    """
    made.set_figheight(made.get_figheight() + inches - already)
    bottom = inches / made.get_figheight()
    made.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))
