"""Turn a photo into an array of pixels: the one function that does so, for training and for classifying."""

import importlib.util
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: A photo of more pixels or more bytes than this is refused before it is decoded.
MAX_PIXELS = 50_000_000
MAX_BYTES = 20_000_000

#: Names the way photos are resized. It is part of every cache's key: change it when `decode` changes.
RESIZING = "stretch-bilinear-2"

# Pillow warns of odd metadata, of which this archive has much. (Set once: catching warnings is not safe in threads.)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.init()
#: What is read, in Pillow's names. Others are refused: some that Pillow knows start another program, such as Ghostscript.
FORMATS = [name for name in ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "HEIF") if name in Image.OPEN]
#: The same in words.
ACCEPTED = f"JPEG, PNG, WebP, GIF, AVIF, BMP{', TIFF or HEIC' if 'HEIF' in FORMATS else ' or TIFF'}"


class PhotoError(ValueError):
    """A file that is not a photo we can use. Its text says what was found, in a few words."""


class PhotoTooLarge(PhotoError):
    """A photo of more than `MAX_BYTES` or `MAX_PIXELS`."""


def read_image(source) -> Image.Image:
    """The first frame of a photo, decoded whole, upright, in RGB.

    `source` is a path, bytes, or a file opened for reading bytes, in one of `FORMATS`. What EXIF says of the camera's
    orientation is applied, transparency is laid on white, and 16-bit grey is scaled down to 8 bits. Colour profiles are
    left out of account.

    Raises `PhotoTooLarge` for a photo over `MAX_BYTES` or `MAX_PIXELS`, before it is decoded, and `PhotoError` for a
    file that is missing, empty, no photo, cut short or damaged.
    """
    content = _content(source)
    if not content:
        raise PhotoError("empty file")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise PhotoTooLarge(f"{image.width}×{image.height} pixels, more than {MAX_PIXELS // 10**6} million")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
            raise PhotoError("a HEIC photo: pip install pillow-heif, and it can be read") from None
        raise PhotoError(f"no photo: it starts with {repr(content[:12])[1:]}; expected {ACCEPTED}") from None
    except Image.DecompressionBombError:
        raise PhotoTooLarge(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except MemoryError:
        raise
    except Exception as error:
        # Decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, IndexError
        # and more: whatever it is, the file cannot be used, and the reader wants to know why.
        raise PhotoError(f"damaged: {error}") from None


def decode(source, size: int) -> np.ndarray:
    """A photo as a uint8 array of shape (size, size, 3), RGB, 0 to 255.

    The photo is stretched to a square, as its makers' own networks and every published figure for these
    photos have it, by a bilinear filter that averages over the source area.

    JPEG files are decoded whole, though shrinking them by 2, 4 or 8 on the way would be up to twice as fast: no browser
    can shrink so, and what that changes about a pixel, a sixth of a grey level on average, changed what the model said
    of some photos by 0.3.

    Takes and raises what `read_image` does.
    """
    return resize(read_image(source), size)


def resize(image, size: int) -> np.ndarray:
    """`image`, a Pillow one or uint8 (height, width, 3), as `decode` resizes it: uint8, (size, size, 3)."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _content(source):
    if not isinstance(source, (str, os.PathLike)):
        content = bytes(source if isinstance(source, (bytes, bytearray, memoryview)) else source.read(MAX_BYTES + 1))
        if len(content) > MAX_BYTES:
            raise PhotoTooLarge(f"more than {MAX_BYTES // 10**6} MB")
        return content
    try:
        if (count := os.stat(source).st_size) > MAX_BYTES:
            raise PhotoTooLarge(f"{count / 1e6:.1f} MB, more than {MAX_BYTES // 10**6}")
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise PhotoError("no such file") from None
    except IsADirectoryError:
        raise PhotoError("a folder, not a photo") from None
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror}") from None


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
