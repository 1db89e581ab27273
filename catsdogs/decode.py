"""Turn a photo into an array of pixels: the one function that does so, for training and for classifying."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: A photo of more pixels than this is refused before it is decoded.
MAX_PIXELS = 50_000_000

#: Names the way photos are resized. It is part of every cache's key: change it when `decode` changes.
RESIZING = "stretch-bilinear-1"


class PhotoError(ValueError):
    """A file that is not a photo we can use. Its text says what was found, in a few words."""


def read_image(source) -> Image.Image:
    """The first frame of a photo, decoded whole, upright, in RGB.

    `source` is a path, bytes, or a file opened for reading bytes. Every format that Pillow reads is
    accepted. What EXIF says of the camera's orientation is applied, transparency is laid on white, and
    16-bit grey is scaled down to 8 bits.

    Raises `PhotoError` for a file that is missing, empty, no image, cut short, damaged or over
    `MAX_PIXELS`.
    """
    return _read(source, None)


def decode(source, size: int) -> np.ndarray:
    """A photo as a uint8 array of shape (size, size, 3), RGB, 0 to 255.

    The photo is stretched to a square, as its makers' own networks and every published figure for these
    photos have it. JPEG files are shrunk by 2, 4 or 8 while they are decoded where that leaves at least
    `size` pixels a side, which is faster and no less sharp; then a bilinear filter that averages over
    the source area brings them to `size`.

    Takes and raises what `read_image` does.
    """
    image = _read(source, size)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _read(source, size):
    if isinstance(source, (str, os.PathLike)):
        try:
            source = Path(source).read_bytes()
        except FileNotFoundError:
            raise PhotoError("no such file") from None
        except IsADirectoryError:
            raise PhotoError("a folder, not a photo") from None
        except OSError as error:
            raise PhotoError(f"cannot be read: {error.strerror}") from None
    elif not isinstance(source, (bytes, bytearray, memoryview)):
        source = source.read()
    source = bytes(source)
    if not source:
        raise PhotoError("empty file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, of which this archive has much, and of images that are
            # large, which are refused here by a limit of our own.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(source))
            if image.width * image.height > MAX_PIXELS:
                raise PhotoError(f"{image.width}×{image.height} pixels, more than {MAX_PIXELS // 10**6} million")
            if size is not None:
                image.draft(None, (size, size))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(f"no image: it starts with {source[:12]!r}") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except MemoryError:
        raise
    except Exception as error:
        # Decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, IndexError
        # and more: whatever it is, the file cannot be used, and the reader wants to know why.
        raise PhotoError(f"damaged: {error}") from None


def _to_rgb(image):
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow reads 16-bit grey as integers up to 65535 and would clip, not scale, them.
        return Image.fromarray((np.asarray(image, np.uint32).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PhotoError("floating-point pixels, whose range is not known")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
