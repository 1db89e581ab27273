"""Resize a photo to a square: the one definition, which ``serving/web/resize.js`` repeats.

The filter is a triangle whose support grows with the scale, like Pillow's ``BILINEAR``: where a
photo is shrunk, it averages over the area that becomes one pixel (antialiasing). It is applied to
columns first, then to rows, with integer weights of at most 15 bits, and each time rounded to 8
bits. The result is within one gray level of Pillow's, in a fraction of the time; and it is the same
to the bit whichever instructions the processor has, and in the browser.
"""

import functools
import threading

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as fast
except ImportError:  # it has no packages for Linux on ARM
    fast = None

_PER_THREAD = threading.local()  # a resizer keeps buffers, so threads cannot share one


def resize(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """`image` stretched to `size`×`size` pixels: a uint8 array (size, size, 3), RGB.

    `image` is a Pillow image in RGB, or a uint8 array (height, width, 3); with four channels, the
    last is ignored.
    """
    if fast is None:
        return _by_numpy(np.asarray(image)[..., :3], size)
    try:
        resizer, options = _PER_THREAD.resizer, _PER_THREAD.options
    except AttributeError:
        resizer = _PER_THREAD.resizer = fast.Resizer()
        options = _PER_THREAD.options = fast.ResizeOptions(
            resize_alg=fast.ResizeAlg.convolution(fast.FilterType.bilinear), use_alpha=False
        )
    if isinstance(image, np.ndarray) and image.shape[2] == 3:
        height, width, _ = image.shape
        kind = fast.PixelType.U8x3
        found = fast.ImageData(size, size, kind)
        resizer.resize(fast.ImageData(width, height, kind, image.tobytes()), found, options)
        return np.frombuffer(found.get_buffer(), np.uint8).reshape(size, size, 3)
    if isinstance(image, np.ndarray):
        # As CMYK, because that is the only mode of four channels, all to be treated alike, which
        # both Pillow takes from memory without a copy and the resizer from Pillow.
        image = Image.frombuffer("CMYK", image.shape[1::-1], image, "raw", "CMYK", 0, 1)
    resized = Image.new(image.mode, (size, size))
    resizer.resize_pil(image, resized, options)
    return np.ascontiguousarray(np.asarray(resized)[..., :3])


def _by_numpy(pixels, size):
    """`resize` in NumPy: the same to the bit, and slower."""
    columns = _applied(pixels, size)
    return np.ascontiguousarray(_applied(columns.transpose(1, 0, 2), size).transpose(1, 0, 2))


def _applied(pixels, size):
    """`pixels`, (lines, length, channels), with so many lines."""
    lines, length, channels = pixels.shape
    if lines == size:
        return pixels
    weights, bits = _weights(lines, size)
    # Floating-point numbers of 64 bits hold these integers and their sums exactly.
    sums = weights @ pixels.reshape(lines, -1).astype(np.float64)
    found = (sums.astype(np.int64) + (1 << (bits - 1))) >> bits
    return found.clip(0, 255).astype(np.uint8).reshape(size, length, channels)


@functools.lru_cache(64)
def _weights(lines: int, size: int) -> tuple[np.ndarray, int]:
    """The weights (size, lines) of each input line in each output line, times 2 ** bits; the bits.

    They have as many bits as let the largest fit into 15.
    """
    scale = lines / size
    radius = max(scale, 1.0)
    centers = (np.arange(size)[:, None] + 0.5) * scale
    places = np.arange(lines)[None]
    inside = (places >= np.floor(centers - radius)) & (places < np.ceil(centers + radius))
    shares = np.maximum(1 - abs((places - (centers - 0.5)) * (1 / radius)), 0) * inside
    shares /= shares.sum(axis=1, keepdims=True)
    bits, largest = 0, shares.max()
    while bits < 21 and np.floor(largest * 2 ** (bits + 1) + 0.5) < 2**15:
        bits += 1
    return np.floor(shares * 2**bits + 0.5), bits
