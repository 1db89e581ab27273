"""What decoding a photo would cost, found by walking the structure of its file, not by decoding it.

Width × height is not the whole of it. A TIFF of 16×16 pixels may declare tiles of 20,000×20,000; a
JPEG may have millions of empty segments, or a hundred scans; a PNG of a few megabytes a million
chunks. All are small and valid enough that a decoder works on them for minutes, or takes gigabytes.
No photo is like that, so the limits here are far from any photo's.

Formats with a decoder that can be led astray but no simple structure, AVIF and HEIC, are not walked
beyond their size. Where photos come from anybody, they are therefore decoded in a process of their
own as well: see `catsdogs.serving.decoders`.
"""

import re
import struct
from collections.abc import Iterator

#: A photo of more pixels than this is refused before it is decoded.
MAX_PIXELS = 50_000_000
#: So is a file of more pieces than this: segments of a JPEG, chunks of a PNG or a WebP, strips or
#: tiles of a TIFF, blocks before the first frame of a GIF. A decoder handles each on its own.
MAX_PIECES = 20_000
#: So is a JPEG of more scans than this, or more pixels in all of its scans: each costs a dozen
#: bytes of the file, and as much time as decoding all pixels does. Usual are 1 to 12.
MAX_SCANS, MAX_SCANNED = 100, 1_000_000_000
#: So are more compressed texts or color profiles in a PNG than this, and more pieces that a JPEG's
#: EXIF data is split into: older versions of Pillow copy all earlier ones for each.
MAX_TEXTS = 100
#: So are more bytes than this in the tags of a TIFF, or of EXIF data, overlaps counted twice.
MAX_VALUES = 64_000_000
#: Pillow decodes BMPs with run-length encoding in Python: so many pixels, or bytes, take 2 seconds.
MAX_RUN_LENGTH_PIXELS, MAX_RUN_LENGTH_BYTES = 10_000_000, 4_000_000


class PhotoError(ValueError):
    """A file that cannot be used as a photo. Its text says what was found, in a few words."""


class PhotoTooLarge(PhotoError):  # noqa: N818
    """A photo of more bytes or pixels than are accepted."""


def check(content: bytes) -> int:
    """The number of pixels that `content`, a photo's file, declares; 0 if that cannot be told.

    Raises `PhotoTooLarge` for more than `MAX_PIXELS`, and `PhotoError` for a file whose decoding
    would take far more time or memory than its pixels do. A file that is damaged, or no photo at
    all, is none of this function's business: decoding it will tell.
    """
    for prefixes, walk in _WALKS:
        if content.startswith(prefixes):
            try:
                width, height = walk(content)
            except (struct.error, IndexError):  # it ends too early
                return 0
            if width * height > MAX_PIXELS:
                raise PhotoTooLarge(
                    f"{width}×{height} pixels, more than {MAX_PIXELS // 10**6} million"
                )
            return width * height
    return 0


# --- JPEG ------------------------------------------------------------------------------------

#: A marker in the data of a scan, where 0xFF 0x00 is a data byte, and 0xFF 0xD0 to 0xD7 restart.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_EOI, _SOS, _APP1, _APP13 = 0xD9, 0xDA, 0xE1, 0xED
#: Start of frame: it holds the size.
_SOF = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}
#: Markers that no length follows, or that Pillow reads as if none did.
_BARE = {0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}


def _jpeg(content):
    width = height = 0
    exif = []
    pieces, at = _Count("JPEG", "segments"), 2
    while True:  # up to the first scan, as Pillow reads it: byte by byte where there is no marker
        pieces.add()
        if content[at] != 0xFF:
            at += 1
            continue
        kind = content[at + 1]
        if kind == 0xFF or kind in _BARE:
            at += 1 if kind == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        if kind == _SOS:
            break
        if kind in _SOF:
            found = struct.unpack_from(">HH", content, at + 5)
            height, width = max(height, found[0]), max(width, found[1])
        elif kind == _APP1 and content.startswith(b"Exif\0\0", at + 4):
            exif.append(content[at + 10 : at + 2 + length])
            if len(exif) > MAX_TEXTS:
                raise _unusual(f"a JPEG whose EXIF data has more than {MAX_TEXTS} pieces")
        elif kind == _APP13:
            pieces.add(content.count(b"8BIM", at, at + 2 + length))  # Photoshop's, in a loop too
        at += 2 + max(length, 2)
    _directory(b"".join(exif))
    if width * height <= MAX_PIXELS:
        _scans(content, at, width * height, pieces)
    return width, height


def _scans(content, at, pixels, pieces):
    """Count the scans from `at` to the end of the image: what follows is another's, or no image."""
    # Counting bytes is ten times as fast as walking. Where even so, with what only looks like a
    # marker, there are few enough, there is nothing to find.
    scans = content.count(b"\xff\xda", at)
    markers = content.count(b"\xff", at) - content.count(b"\xff\0", at)
    if max(scans / MAX_SCANS, scans * pixels / MAX_SCANNED, markers / MAX_PIECES * 2) <= 1:
        return
    scans = 0
    while marker := _MARKER.search(content, at):
        at, kind = marker.end(), content[marker.end() - 1]
        if kind == _EOI:
            return
        pieces.add()
        if kind == _SOS:
            scans += 1
            if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
                raise _unusual(f"a JPEG of {scans} scans or more")
        if kind not in _BARE and len(content) >= at + 2:
            at += max(struct.unpack_from(">H", content, at)[0], 2)


# --- TIFF, which EXIF data is as well ---------------------------------------------------------

#: Bytes per value, by type.
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TEXTS = (1, 2, 6, 7)  # types that are kept as bytes
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
#: A tile may reach beyond the picture: so many pixels are allowed in any, more in a large picture.
_TILE = 1_000_000


def _tiff(content):
    numbers = _directory(content)
    width, height = numbers.get(_WIDTH, 0), numbers.get(_HEIGHT, 0)
    tile = numbers.get(_TILE_WIDTH, 0), numbers.get(_TILE_HEIGHT, 0)
    if tile[0] * tile[1] > max(4 * width * height, _TILE):
        raise _unusual(f"a TIFF of {width}×{height} pixels in tiles of {tile[0]}×{tile[1]}")
    return width, height


def _directory(content):
    """The tags of the first directory of `content` that hold a single number.

    Pillow reads all values of a directory into memory, and converts numbers one by one. Values may
    lie in the same bytes of the file, thousands of times over, so their sizes are summed up.
    """
    numbers: dict[int, int] = {}
    if not content.startswith((b"II", b"MM")):
        return numbers
    order = "<" if content.startswith(b"II") else ">"
    big = 43 in content[2:4]
    entry = struct.Struct(order + ("HHQ8s" if big else "HHL4s"))
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "L"), content, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), content, at)
    except struct.error:  # it ends too early
        return numbers
    at += 8 if big else 2
    total, tags = 0, _Count("TIFF", "tags")
    while entries and at + entry.size <= len(content):
        tags.add()
        tag, kind, count, value = entry.unpack_from(content, at)
        entries, at = entries - 1, at + entry.size
        size = _UNITS.get(kind, 0) * count
        if size > len(value):
            (start,) = struct.unpack(order + ("Q" if big else "L"), value)
            total += max(0, min(size, len(content) - start))
            if total > MAX_VALUES:
                raise _unusual(f"tags of more than {MAX_VALUES // 10**6} MB")
            if size > len(content) - start:
                continue  # damaged, and so passed over
        if kind not in _TEXTS and count > MAX_PIECES:
            raise _unusual(f"a tag of {count:,} numbers")
        if count == 1 and kind in (3, 4, 16):
            (number,) = struct.unpack_from(order + {3: "H", 4: "L", 16: "Q"}[kind], value)
            # Of two entries for one tag, Pillow and libtiff may each take a different one.
            numbers[tag] = max(number, numbers.get(tag, 0))
    return numbers


# --- PNG, WebP, GIF, BMP ----------------------------------------------------------------------


def _png(content):
    width = height = texts = 0
    for kind, start, length in _chunks(content, 8, ">I4s", 4, "PNG"):
        if kind == b"IHDR":
            found = struct.unpack_from(">II", content, start)
            width, height = max(width, found[0]), max(height, found[1])
        elif kind in (b"zTXt", b"iTXt", b"iCCP"):
            texts += 1
            if texts > MAX_TEXTS:
                raise _unusual(f"a PNG of more than {MAX_TEXTS} compressed texts")
        elif kind == b"eXIf":
            _directory(content[start : start + length])
        elif kind == b"IEND":
            break
    return width, height


def _webp(content):
    if content[8:12] != b"WEBP":
        return 0, 0
    width = height = 0
    for kind, start, length in _chunks(content, 12, "<4sI", 0, "WebP"):
        found = 0, 0
        if kind == b"VP8X":
            low, middle, high = struct.unpack_from("<HHH", content, start + 4)
            found = 1 + low + ((middle & 0xFF) << 16), 1 + (middle >> 8) + (high << 8)
        elif kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", content, start + 1)
            found = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 ":
            found = tuple(
                number & 0x3FFF for number in struct.unpack_from("<HH", content, start + 6)
            )
        elif kind == b"EXIF":
            _directory(content[start : start + length].removeprefix(b"Exif\0\0"))
        width, height = max(width, found[0]), max(height, found[1])
    return width, height


def _chunks(content, at, head, checksum, name) -> Iterator[tuple[bytes, int, int]]:
    """The kind, start and length of each chunk of `content`, from `at`."""
    pieces = _Count(name, "chunks")
    while at + 8 <= len(content):
        pieces.add()
        found = struct.unpack_from(head, content, at)
        kind, length = found if isinstance(found[0], bytes) else found[::-1]
        yield kind, at + 8, length
        at += 8 + length + checksum
        if not checksum:
            at += length % 2


def _gif(content):
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    at = 13 + _palette(flags)
    pieces = _Count("GIF", "blocks before its first frame")
    while content[at] != 0x3B:  # the end of the file
        pieces.add()
        if content[at] == 0x2C:  # the first frame, all that is decoded: it may exceed the screen
            left, top, columns, rows = struct.unpack_from("<HHHH", content, at + 1)
            return max(width, left + columns), max(height, top + rows)
        if content[at] == 0x21:  # an extension, in blocks that begin with their length
            at += 2
            while content[at]:
                pieces.add()
                at += 1 + content[at]
        at += 1
    return width, height


def _palette(flags):
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(content):
    (header,) = struct.unpack_from("<I", content, 14)
    if header == 12:
        return struct.unpack_from("<HH", content, 18)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", content, 18)
    width, height = abs(width), abs(height)  # from top to bottom, the height is negative
    if compression in (1, 2) and (
        width * height > MAX_RUN_LENGTH_PIXELS or len(content) > MAX_RUN_LENGTH_BYTES
    ):
        raise PhotoTooLarge(
            f"a BMP with run-length encoding, {width}×{height} pixels, {len(content) / 1e6:.1f} "
            f"MB: expected at most {MAX_RUN_LENGTH_PIXELS // 10**6} million pixels and "
            f"{MAX_RUN_LENGTH_BYTES // 10**6} MB, or another format"
        )
    return width, height


# --- AVIF and HEIC ----------------------------------------------------------------------------

_SIZE = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)


def _heif(content):
    """The largest of the images in the file, which thumbnails and tiles are as well."""
    if content[4:8] != b"ftyp":
        return 0, 0
    found = [struct.unpack(">II", size) for size in _SIZE.findall(content, 0, 1 << 20)]
    return max(found, key=lambda size: size[0] * size[1], default=(0, 0))


# --- all of them ------------------------------------------------------------------------------


def _unusual(what):
    return PhotoError(f"not an ordinary photo: {what}")


class _Count:
    """Counts the pieces of a file, and refuses those that have too many."""

    def __init__(self, name, kind):
        self.name, self.kind, self.count = name, kind, 0

    def add(self, count=1):
        self.count += count
        if self.count > MAX_PIECES:
            raise _unusual(f"a {self.name} of more than {MAX_PIECES:,} {self.kind}")


#: How files begin, and what walks them.
_WALKS = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    ((b"GIF87a", b"GIF89a"), _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    ((b"II", b"MM"), _tiff),
    (b"", _heif),  # which begins with a length
)
