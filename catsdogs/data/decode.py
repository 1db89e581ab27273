"""Decode a photo into an array: the one function that does so, for training and every interface."""

import importlib.util
import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from catsdogs import paths
from catsdogs.data import jpeg, structure
from catsdogs.data.resize import resize
from catsdogs.data.structure import MAX_PIXELS, PhotoError, PhotoTooLarge
from catsdogs.parallel import map_in_threads
from catsdogs.text import printable

#: A photo of more bytes than this is refused before it is read; `structure` has the other limits.
MAX_BYTES = 20_000_000

#: Names the way photos are resized. It is part of every cache's key: change it when `decode`
#: changes.
RESIZING = "stretch-bilinear-3"

# Pillow warns of odd metadata, of which this archive has much. (The filter is set once, as catching
# warnings is not safe in threads.) The second is about large images, for which we have a limit.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # there is a limit of our own

if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.init()
#: The accepted formats, in Pillow's names. Others are refused: some that Pillow knows start another
#: program, such as Ghostscript.
FORMATS: list[str] = [
    name
    for name in ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "HEIF")
    if name in Image.OPEN
]
#: The same in words.
ACCEPTED = f"JPEG, PNG, WebP, GIF, AVIF, BMP{', TIFF or HEIC' if 'HEIF' in FORMATS else ' or TIFF'}"


#: How the formats begin when they are encoded as text, as in JSON and web pages.
_BASE64 = (b"data:image/", b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"SUkqA", b"TU0AK")

#: How to turn a photo upright, by its EXIF orientation; 1 is upright already.
_TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        2,
    )
)


#: Pixels of a large image that are converted at a time.
_STRIP = 4_000_000


def read_image(source) -> Image.Image:
    """The first frame of a photo, decoded whole, upright, in RGB.

    `source` is a path, bytes, or a file opened for reading bytes, in one of `FORMATS`. The EXIF
    orientation is applied, transparency is composited onto white, and 16-bit gray is scaled down
    to 8 bits. Color profiles are ignored.

    Raises `PhotoTooLarge` for a photo over `MAX_BYTES` or `MAX_PIXELS`, before it is decoded, and
    `PhotoError` for a file that is missing, empty, truncated, corrupt or not a photo.
    """
    found = _read(read_content(source))
    return jpeg.as_image(found) if isinstance(found, np.ndarray) else found


def decode(source, size: int) -> np.ndarray:
    """A photo as a uint8 array of shape (size, size, 3), RGB, 0 to 255.

    The photo is stretched to a square, as for all published results on these photos, by a bilinear
    filter with antialiasing, which averages over the source area (`catsdogs.data.resize`).

    JPEG files are decoded at full size, though decoding them at a half, a quarter or an eighth of
    it would be up to twice as fast. No browser can do that, and what it changes about a pixel, a
    sixth of a gray level on average, changed the predicted probability of some photos by 0.3.

    Takes and raises what `read_image` does.
    """
    return resize(_read(read_content(source)), size)


def _read(content):
    """The photo in `content`, upright: an array as of `jpeg.decode`, or a Pillow image in RGB.

    Ordinary JPEG files are decoded by libjpeg-turbo, as Pillow decodes them too, but with less
    around it. Everything else is left to Pillow, and so is every file that libjpeg-turbo has the
    slightest complaint about: whether it is good enough, and what is said of it, is Pillow's.
    """
    if not content:
        raise PhotoError("empty file")
    structure.check(content)
    try:
        if (image := jpeg.decode(content)) is not None:
            if jpeg.may_be_turned(content) and (turn := _turn(_open(content))) is not None:
                image = jpeg.as_image(image).transpose(turn)
            return image
        image = _open(content)
        if image.width * image.height > MAX_PIXELS:
            raise PhotoTooLarge(
                f"{image.width}×{image.height} pixels, more than {MAX_PIXELS // 10**6} million"
            )
        image.load()
        turn = _turn(image)
        if turn is not None:
            image = image.transpose(turn)  # the other is freed
        return _to_rgb(image)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in (
            b"heic",
            b"heix",
            b"hevc",
            b"mif1",
            b"msf1",
        ):
            raise PhotoError("a HEIC photo: pip install pillow-heif, and it can be read") from None
        if content.startswith(_BASE64):
            raise PhotoError("base64 text, not the photo itself: decode it first") from None
        raise PhotoError(
            f"no photo: it starts with {repr(content[:12])[1:]}; expected {ACCEPTED}"
        ) from None
    except Image.DecompressionBombError:
        raise PhotoTooLarge(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except MemoryError:
        raise
    except Exception as error:
        # For corrupt files, decoders raise OSError, SyntaxError, ValueError, struct.error,
        # IndexError and more: whatever it is, the file cannot be used, and people want to know why.
        raise PhotoError(f"damaged: {error}") from None


def _open(content):
    return Image.open(io.BytesIO(content), formats=FORMATS)


def decode_all(
    sources: Iterable, size: int, *, errors: str = "raise"
) -> Iterator[np.ndarray | PhotoError]:
    """`decode` each of `sources`, in their order, on all cores.

    With ``errors="return"``, a photo that cannot be used yields its `PhotoError` in place of an
    array; with ``"raise"`` the first of them is raised.
    """
    if errors not in ("raise", "return"):
        raise ValueError(f"errors={errors!r}: expected 'raise' or 'return'")

    def decode_one(source):
        try:
            return decode(source, size)
        except PhotoError as error:
            return error

    for result in map_in_threads(decode_one, sources):
        if errors == "raise" and isinstance(result, PhotoError):
            raise result
        yield result


def to_show(photos: Iterable[Path], size: int) -> list[np.ndarray]:
    """`decode` each of `photos`, for a figure: white in place of one that cannot be, with a message."""
    photos, images = list(photos), []
    for photo, image in zip(photos, decode_all(photos, size, errors="return")):
        if isinstance(image, PhotoError):
            print(f"{printable(paths.shown(photo))} is shown white: {image}")
            image = np.full((size, size, 3), 255, np.uint8)
        images.append(image)
    return images


def read_content(source) -> bytes:
    """The bytes of the file that `source` is: a path, bytes, or a file opened for reading bytes.

    Raises `PhotoTooLarge` for more than `MAX_BYTES`, and `PhotoError` for a file that is missing or
    cannot be read.
    """
    if not isinstance(source, (str, os.PathLike)):
        content = bytes(
            source
            if isinstance(source, (bytes, bytearray, memoryview))
            else source.read(MAX_BYTES + 1)
        )
        if len(content) > MAX_BYTES:
            raise PhotoTooLarge(f"more than {MAX_BYTES // 10**6} MB")
        return content
    try:
        # Without Python's file objects, whose half a dozen calls to the system each let another
        # thread have the interpreter: for small photos, waiting to get it back took as long as
        # decoding. (Windows has its own flag for files that are no text.)
        file = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            facts = os.fstat(file)
            if stat.S_ISDIR(facts.st_mode):
                raise IsADirectoryError
            if facts.st_size > MAX_BYTES:
                raise PhotoTooLarge(f"{facts.st_size / 1e6:.1f} MB, more than {MAX_BYTES // 10**6}")
            if stat.S_ISREG(facts.st_mode) and len(content := os.read(file, facts.st_size + 1)) == (
                facts.st_size
            ):
                return content
        finally:
            os.close(file)
        with open(source, "rb") as stream:  # a device, which has no size, and no end; or it grows
            return read_content(stream)
    except FileNotFoundError:
        raise PhotoError("no such file") from None
    except IsADirectoryError:
        may = os.access(source, os.R_OK | os.X_OK)
        raise PhotoError(
            "a folder, not a photo" if may else "a folder that may not be read"
        ) from None
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror}") from None


def _turn(image):
    """What turns `image` upright, or None."""
    # Not ImageOps.exif_transpose, which also rewrites the metadata, and fails at any odd tag.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # metadata may be damaged where pixels are not
        return None


def _to_rgb(image):
    if image.mode == "F":
        raise PhotoError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I;16") or image.mode == "I":
        return _in_strips(image, _scaled_to_8_bits)
    if "A" in image.getbands() or "transparency" in image.info:
        return _in_strips(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _in_strips(image, convert):
    """`convert` applied to `image`: in strips if it is large, as it needs several copies of each."""
    rows = max(1, _STRIP // image.width)
    if image.height <= rows:
        return convert(image)
    found = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        found.paste(convert(strip), (0, top))
    return found


def _scaled_to_8_bits(image):
    # Pillow reads 16-bit gray as integers up to 65535 and would clip, not scale, them.
    gray = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")


def _on_white(image):
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image).convert("RGB")
