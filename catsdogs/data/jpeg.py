"""Decode ordinary JPEG files by libjpeg-turbo, in half of the time that Pillow takes for them.

Pillow decodes JPEG by the same library, and to the same pixels. Its time goes into what is around
it: parsing every segment in Python, feeding the decoder, copying rows.
"""

import numpy as np
from PIL import Image

from catsdogs.data.structure import MAX_PIXELS

try:
    import simplejpeg
except ImportError:  # it has no package for this machine: Pillow decodes to the same pixels
    simplejpeg = None

#: Images of more pixels than this are decoded to four bytes per pixel, not three, as then neither
#: Pillow nor the resizer has to copy them.
_MANY_PIXELS = 1_000_000


def decode(content: bytes) -> np.ndarray | None:
    """The pixels of `content`, a JPEG file in color or in gray, as they are stored (not turned).

    That is a uint8 array (height, width, 3), RGB, or for a large photo (height, width, 4), whose
    last channel means nothing. It is None for a file that is not JPEG, is in CMYK, has more than
    `MAX_PIXELS`, or that libjpeg-turbo gives as much as a warning about; and where simplejpeg, its
    package, is not installed.
    """
    if simplejpeg is None or not content.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        # CMYK would be converted, but not as Pillow does.
        if colors not in ("YCbCr", "RGB", "Gray") or height * width > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(content, "RGB" if height * width <= _MANY_PIXELS else "RGBX")
    except ValueError:
        return None


def as_image(pixels: np.ndarray) -> Image.Image:
    """What `decode` found, as a Pillow image in RGB."""
    height, width, channels = pixels.shape
    if channels == 3:
        return Image.fromarray(pixels)
    return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1).convert("RGB")


def may_be_turned(content: bytes) -> bool:
    """Whether a JPEG file may say that it is to be shown turned or flipped.

    Only then does its metadata have to be parsed: for a small photo, Pillow takes as long for that
    as libjpeg-turbo for the pixels. The orientation is in EXIF data or, rarely, in XMP.
    """
    return b"Exif\0\0" in content or b"tiff:Orientation" in content
