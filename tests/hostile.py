"""Files that are small, and valid enough, to keep a decoder busy or fill the memory, by kind."""

import io
import struct
import zlib

from PIL import Image

#: 16×16 pixels in tiles of 20,000×20,000: 1.6 GB.
TIFF_TILES = bytes.fromhex(
    "49492a00080000000b000001040001000000100000000101040001000000210000000201030001000000200000"
    "000301030001000000020000000601030001000000010000001501030001000000010000001c01030001000000"
    "010000004201040001000000204e00004301040001000000204e000044010400020000009200000045010400020"
    "000009a00000000000000a2000000a20000000a0000000a00000023c51df3ba99359da120"
)


def jpeg(width=64, height=64, **options):
    """A gray JPEG of one color."""
    file = io.BytesIO()
    Image.new("L", (width, height), 90).save(file, "JPEG", **options)
    return file.getvalue()


def many_scans(scans, **size):
    """A progressive JPEG that repeats its last scan."""
    content = jpeg(progressive=True, **size)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + content[-2:]


def chunk(kind, content):
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(*chunks, width=16, height=16, channels=1):
    """A PNG of zeros, with `chunks` before its data."""
    compress = zlib.compressobj(1)
    row = bytes(1 + width * channels)
    data = b"".join(compress.compress(row) for _ in range(height)) + compress.flush()
    kind = {1: 0, 3: 2, 4: 6}[channels]
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
            *chunks,
            chunk(b"IDAT", data),
            chunk(b"IEND", b""),
        ]
    )


def tiff(width, height, *entries, data=b"", bits=8):
    """An uncompressed gray TIFF with more `entries`, (tag, type, count, value), and `data`.

    The values of entries that refer to `data` are relative to its start.
    """
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        *entries,
    ]
    start = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(
        struct.pack("<HHL", tag, kind, count)
        + (
            struct.pack("<L", value + start)
            if count > 4
            else struct.pack("<H2x" if kind == 3 else "<L", value)
        )
        for tag, kind, count, value in sorted(entries)
    )
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + directory + bytes(4) + data


def overlapping(size, entries):
    """TIFF tags that all hold the same `size` bytes, as EXIF data."""
    start = 8 + 2 + 12 * entries + 4
    directory = b"".join(struct.pack("<HHLL", 1000 + tag, 7, size, start) for tag in range(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + directory + bytes(4 + size)


def segment(marker, content):
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def run_length_bmp(width, height, content):
    """A BMP with run-length encoding."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(content), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + bytes(1024) + content


def _in_jpeg(extra):
    content = jpeg()
    return content[:2] + extra + content[2:]


def _in_gif(extra):
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, "GIF")
    content = file.getvalue()
    at = 13 + (3 << (content[10] & 7) + 1)  # behind its palette
    return content[:at] + extra + content[at:]


def _strips(count=2_400_000):
    offsets = (273, 4, count, 0), (279, 4, count, 0), (278, 3, 1, 1)
    return tiff(1, count, *offsets, data=bytes(4 * count))


def _webp_chunks():
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "WEBP", exif=b"Exif\0\0II*\0")
    content = file.getvalue() + struct.pack("<4sI", b"JUNK", 0) * 2_000_000
    return b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:]


_BOMB = b"a\0\0" + zlib.compress(bytes(1_000_000))
_PHOTOSHOP = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5_000)

#: Makes one file of each kind, of at most 20 MB.
KINDS = {
    "TIFF tiles": lambda: TIFF_TILES,
    "TIFF strips": _strips,
    "TIFF tags that overlap": lambda: tiff(
        16, 16, *((60_000 + n, 7, 10_000_000, 0) for n in range(5000)), data=bytes(10_000_000)
    ),
    "TIFF numbers": lambda: tiff(16, 16, (700, 3, 9_000_000, 0), data=bytes(18_000_000)),
    "EXIF pieces": lambda: _in_jpeg(segment(0xE1, b"Exif\0\0" + b"a" * 10) * 995_000),
    "EXIF tags that overlap": lambda: _in_jpeg(
        segment(0xE1, b"Exif\0\0" + overlapping(32_000, 2_500))
    ),
    "JPEG segments": lambda: _in_jpeg(b"\xff\xe5\0\x02" * 4_900_000),
    "JPEG fill bytes": lambda: _in_jpeg(b"\xff" * 19_000_000),
    "JPEG junk": lambda: _in_jpeg(b"\xff\xd0" + b"\0" * 19_000_000),
    "JPEG restart markers": lambda: _in_jpeg(b"\xff\xd0" * 9_500_000),
    "JPEG markers without length": lambda: _in_jpeg((b"\xff\xf0\xff\xfe" + bytes(65_000)) * 290),
    "JPEG scans": lambda: many_scans(1000),
    "large JPEG scans": lambda: many_scans(90, width=3600, height=3400),
    "Photoshop resources": lambda: _in_jpeg(_PHOTOSHOP * 300),
    "PNG chunks": lambda: png(chunk(b"teXt", b"") * 1_000_000),
    "PNG profiles": lambda: png(chunk(b"iCCP", _BOMB) * 15_000),
    "PNG texts": lambda: png(chunk(b"zTXt", _BOMB[:-8]) * 15_000),
    "PNG with EXIF tags that overlap": lambda: png(chunk(b"eXIf", overlapping(9_000_000, 20_000))),
    "GIF comment": lambda: _in_gif(b"!\xfe" + (b"\xff" + b"c" * 255) * 70_000 + b"\0"),
    "GIF junk": lambda: _in_gif(b"\x01" * 19_000_000),
    "GIF frame": lambda: _in_gif(b",\0\0\0\0\xff\xff\xff\xff\0\x08"),
    "BMP lines": lambda: run_length_bmp(50_000_000, 1, b"\0\0" * 9),
    "BMP runs": lambda: run_length_bmp(1000, 1000, b"\x01\0" * 9_900_000),
    "WebP chunks": _webp_chunks,
}
