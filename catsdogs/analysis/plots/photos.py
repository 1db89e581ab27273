"""Figures of photos, of filters, and of the sizes of photos."""

import numpy as np
from matplotlib.figure import Figure

from catsdogs import CLASS_NAMES
from catsdogs.analysis.plots.style import (
    ACCENT,
    SMALL,
    VAL,
    count_axis,
    figure,
    fitted,
    legend,
    note,
    set_title,
    styled,
)

_LINE = 1.25 * SMALL / 72  # inches, the height of a line of a photo's title
_GAP = 0.03  # of a photo's width, between it and its heatmap


@styled
def photo_grid(images, titles, *, columns: int = 6, maps=None, size: float = 1.7) -> Figure:
    """A grid of photos, (photos, height, width, 3), 0 to 255, each with its title.

    `size` is the width of a photo in inches. With `maps`, heatmaps of shape (photos, height,
    width), 0 to 1, each photo is shown twice, by itself and under its heatmap, in a grid of half as
    many `columns`. Without any photos, the figure says so.
    """
    if not len(images):
        made, axis = figure(width=4, height=1)
        axis.axis("off")
        note(axis, "no photos")
        return made
    if maps is not None:
        columns, size = max(columns // 2, 1), (2 + _GAP) * size
        images = [_beside(image, heatmap) for image, heatmap in zip(images, maps)]
    columns = min(columns, len(images))
    texts = [fitted(text, 0.95 * size) for text in titles]
    lines = max(text.count("\n") + 1 for text in texts)
    shape = np.asarray(images[0]).shape
    height = size * shape[0] / shape[1] + lines * _LINE + 0.12
    rows = -(-len(images) // columns)
    made, axes = figure(rows, columns, width=columns * size, height=rows * height, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, text in zip(axes.flat, images, texts):
        axis.imshow(np.asarray(image).astype(np.uint8))
        axis.set_title(text, fontsize=SMALL, fontweight="normal", loc="center", parse_math=False)
    return made


@styled
def filters(kernel, *, columns: int = 16) -> Figure:
    """The filters of a first convolution as RGB images, each scaled to 0 to 1.

    `kernel` has shape (height, width, 3, filters).
    """
    kernel = np.moveaxis(np.asarray(kernel, np.float64), -1, 0)
    low, high = kernel.min((1, 2, 3), keepdims=True), kernel.max((1, 2, 3), keepdims=True)
    pictures = ((kernel - low) / np.maximum(high - low, 1e-9)).repeat(12, 1).repeat(12, 2)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    # One image of them all: dozens of axes would take seconds to draw.
    gap = 12 * kernel.shape[1] // 5
    height, width = pictures.shape[1] + gap, pictures.shape[2] + gap
    mosaic = np.ones((rows * height - gap, columns * width - gap, 3))
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        mosaic[top : top + height - gap, left : left + width - gap] = picture
    # As wide as the mark of the synthetic sample at least.
    made, axis = figure(width=max(0.6 * columns, 2), height=0.6 * rows + 0.1)
    axis.axis("off")
    axis.imshow(mosaic, interpolation="nearest")
    return made


@styled
def sizes(table) -> Figure:
    """Width against height, and the file sizes, of the readable photos of `table`.

    `table` is that of `catsdogs.data.check.check_photos`.
    """
    good = table[table.problem == ""]
    made, (left, right) = figure(1, 2, width=9.6, height=3.4)
    few = len(good) < 500
    edges = np.histogram_bin_edges(good.bytes / 1000, bins=20 if few else 50)
    # Two shapes, of which neither hides the other where all photos have the same size.
    for label, color, marker in ((0, ACCENT, "o"), (1, VAL, "x")):
        rows = good[good.label == label]
        name = f"{CLASS_NAMES[label]}s"
        left.plot(
            rows.width,
            rows.height,
            marker,
            ms=4,
            mew=1,
            alpha=0.8 if few else 0.3,
            color=color,
            label=name,
        )
        right.hist(rows.bytes / 1000, bins=edges, alpha=0.6, color=color)
    set_title(left, "Width and height")
    left.set(xlabel="width (pixels)", ylabel="height (pixels)")
    left.set(xlim=(0, None), ylim=(0, None))
    set_title(right, "File size")
    right.set(xlabel="file size (kB)", ylabel="photos")
    count_axis(right)
    legend(made)
    return made


def _beside(image, heatmap):
    """`image`, and to the right of it the same under `heatmap`, as one image.

    The heatmap is as on the web page: from transparent over red to yellow, so that the photo stays
    visible where the heat is low, and the heat stands out on any photo.
    """
    image, heat = np.asarray(image, np.float64), np.asarray(heatmap, np.float64)[..., None]
    color = np.concatenate([np.full_like(heat, 255), 40 + 190 * heat**1.5, 60 * heat], axis=-1)
    opacity = 0.75 * heat
    gap = np.full((image.shape[0], max(1, round(_GAP * image.shape[1])), 3), 255.0)
    under_heat = image * (1 - opacity) + color * opacity
    return np.concatenate([image, gap, under_heat], axis=1).round().astype(np.uint8)
