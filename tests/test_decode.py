"""Decoding every kind of file that a camera, a website or an accident produces."""

import io
import struct
import time
import zlib

import hostile
import numpy as np
import pytest
from PIL import Image, ImageCms

from catsdogs.data import decode, structure
from catsdogs.data.decode import PhotoError, read_image


def picture(width=120, height=80):
    """A smooth picture, red to the right, green downwards: its orientation and colors show."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 60)], -1).astype(np.uint8))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def without_jfif(content):
    """The same JPEG without its APP0 segment, as hundreds of the archive's photos are."""
    assert content[2:4] == b"\xff\xe0"
    length = struct.unpack(">H", content[4:6])[0]
    return content[:2] + content[4 + length :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF"])
def test_every_format_gives_the_same_pixels(kind):
    found = decode.decode(encoded(picture(), kind), 32)
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    expected = np.asarray(picture().resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    # GIF has 256 colors; the others are within what JPEG's compression does.
    assert abs(found - expected).mean() < (14 if kind == "GIF" else 3)


def test_a_jpeg_without_jfif_header_is_a_good_photo():
    content = encoded(picture(), "JPEG")
    assert np.array_equal(decode.decode(without_jfif(content), 32), decode.decode(content, 32))


def test_trailing_bytes_do_no_harm():
    content = encoded(picture(), "JPEG")
    assert np.array_equal(decode.decode(content + b"\0" * 500, 32), decode.decode(content, 32))


def test_cmyk_is_converted_to_its_colors():
    content = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert (
        abs(
            decode.decode(content, 32).astype(int) - decode.decode(encoded(picture(), "PNG"), 32)
        ).mean()
        < 6
    )


def test_grayscale_has_three_equal_channels():
    found = decode.decode(encoded(picture().convert("L"), "JPEG"), 32)
    assert np.array_equal(found[..., 0], found[..., 1]) and np.array_equal(
        found[..., 0], found[..., 2]
    )
    assert found.std() > 20


def test_palette():
    content = encoded(picture().quantize(64), "PNG")
    assert (
        abs(
            decode.decode(content, 32).astype(int) - decode.decode(encoded(picture(), "PNG"), 32)
        ).mean()
        < 16
    )


def test_sixteen_bit_gray_is_scaled_not_clipped():
    gray = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = decode.decode(encoded(Image.fromarray(gray), "PNG"), 64)
    assert abs(found[..., 0].astype(int) - (gray >> 8)).max() <= 1
    assert np.median(found) < 140  # clipped, all but the first 256 levels would be 255


def test_transparency_is_composited_onto_white():
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (decode.decode(encoded(clear, "PNG"), 8) == 255).all()


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (
        tuple(decode.decode(content, 4)[0, 0]) == (255, 0, 0)
        or decode.decode(content, 4)[0, 0, 0] > 250
    )


@pytest.mark.parametrize(
    "orientation, turned",
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: np.rot90(a, 2)),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation_is_applied(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = np.asarray(read_image(encoded(picture(), "JPEG", exif=exif, quality=95)))
    expected = turned(np.asarray(read_image(encoded(picture(), "JPEG", quality=95))))
    assert found.shape == expected.shape and abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("tag, value", [(0x011A, "72 dpi"), (0x010E, 1.5), (0x0132, 7)])
def test_odd_metadata_does_not_hide_the_orientation(tag, value):
    """XResolution as text, a description as a number: cameras write such, with intact pixels."""
    kinds = {
        str: (2, len(str(value)) + 1, str(value).encode() + b"\0"),
        float: (5, 1, struct.pack("<II", 3, 2)),
        int: (3, 1, struct.pack("<HH", value if isinstance(value, int) else 0, 0)),
    }
    kind, count, data = kinds[type(value)]
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, data)])
    directory, extra = struct.pack("<H", len(entries)), b""
    for number, form, length, content in entries:
        if len(content) > 4:
            where, extra = 8 + 2 + 12 * len(entries) + 4 + len(extra), extra + content
            content = struct.pack("<I", where)
        directory += struct.pack("<HHI", number, form, length) + content.ljust(4, b"\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + directory + b"\0\0\0\0" + extra
    assert read_image(encoded(picture(), "JPEG", exif=exif)).size == (80, 120)


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_a_file_that_would_keep_the_decoder_busy_is_refused_before_it_is_decoded(kind):
    content = hostile.KINDS[kind]()
    assert len(content) <= decode.MAX_BYTES
    started = time.process_time()
    with pytest.raises(PhotoError, match="not an ordinary photo|million|no photo"):
        decode.decode(content, 32)
    assert time.process_time() - started < 0.5


def test_unusual_files_that_cost_little_are_read():
    assert read_image(hostile.many_scans(20)).size == (64, 64)
    text = hostile.chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 1000))
    chunks = hostile.chunk(b"teXt", b"") * 10_000 + text * 90
    assert read_image(hostile.png(chunks)).size == (16, 16)
    rows = encoded(picture(30, 5000), "TIFF", tiffinfo={278: 1})
    assert read_image(rows).size == (30, 5000)
    tiles = hostile.tiff(40, 40, (322, 3, 1, 512), (323, 3, 1, 512))
    assert structure.check(tiles) == 40 * 40


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_what_follows_the_image_in_a_jpeg_is_not_looked_at(options):
    """A motion photo has its video there, and other cameras a second image or a gain map."""
    content = encoded(picture(), "JPEG", **options)
    alone = decode.decode(content, 32)
    video = np.random.default_rng(0).integers(0, 256, 9_000_000, np.uint8).tobytes()
    video = b"\0\0\0\x18ftypmp42" + video + b"\xff\xda" * 1000
    for after in (video, content * 150, b"\xff" * 100_000, b"\xff\xe5\0\2" * 100_000):
        assert np.array_equal(decode.decode(content + after, 32), alone)
    assert structure.check(content + video) == 120 * 80
    thumbnail = hostile.segment(0xE1, b"Exif\0\0" + b"\xff\xda" * 1000)
    assert np.array_equal(decode.decode(content[:2] + thumbnail + content[2:], 32), alone)


def test_the_second_image_of_a_multi_picture_file_is_not_looked_at():
    content = encoded(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert read_image(content).size == (120, 80)
    assert structure.check(content) == 120 * 80


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("size", [(120, 80), (33, 7)])
def test_the_size_is_known_before_decoding(kind, size):
    assert structure.check(encoded(picture(*size), kind)) == size[0] * size[1]
    for options in ({"lossless": True}, {"exif": b"Exif\0\0II*\0"}) if kind == "WEBP" else ():
        assert structure.check(encoded(picture(*size), kind, **options)) == size[0] * size[1]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_a_large_photo_is_converted_in_strips_to_the_same_pixels(mode, monkeypatch):
    image = picture().convert("L") if mode == "I;16" else picture()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(64)
    else:
        image = image.convert(mode)
        image.putalpha(picture().convert("L"))
    content = encoded(image, "PNG", **({"transparency": 3} if mode == "P" else {}))
    whole = np.asarray(read_image(content))
    monkeypatch.setattr(decode, "_STRIP", 120 * 7)
    assert np.array_equal(np.asarray(read_image(content)), whole)


def test_negative_numbers_are_black_not_white():
    image = Image.fromarray(np.array([[-5, 0], [65535, 70000]], np.int32))
    assert np.asarray(read_image(encoded(image, "TIFF")))[..., 0].tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_resizing_averages_over_the_source(kind):
    big = picture(800, 600)
    found = decode.decode(
        encoded(big, kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {})), 64
    ).astype(int)
    assert abs(found - np.asarray(big.resize((64, 64), Image.Resampling.BILINEAR))).mean() < 2


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"<html><body>404</body></html>", "no photo"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no photo"),
        (b"PK\x03\x04" + b"\0" * 100, "no photo"),
        (b"\xff\xd8\xff\xe0", "no photo"),
    ],
)
def test_what_is_no_photo_is_refused_with_the_reason(content, reason):
    with pytest.raises(PhotoError, match=reason):
        decode.decode(content, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(kind, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    content = encoded(noise, kind)
    with pytest.raises(PhotoError):
        decode.decode(content[: int(len(content) * share)], 32)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    # A PNG of a few bytes whose header promises 30,000 by 30,000 pixels.
    bomb = hostile.png(width=30_000, height=1).replace(
        struct.pack(">II", 30_000, 1), struct.pack(">II", 30_000, 30_000)
    )
    with pytest.raises(PhotoError, match="million"):
        decode.decode(bomb, 32)


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "large.jpg"
    with open(path, "wb") as file:
        file.truncate(decode.MAX_BYTES + 1)
    with pytest.raises(decode.PhotoTooLarge, match="20.0 MB, more than 20"):
        decode.decode(path, 32)
    with pytest.raises(decode.PhotoTooLarge, match="more than 20 MB"), open(path, "rb") as file:
        decode.decode(file, 32)


def test_formats_that_start_other_programs_are_refused():
    with pytest.raises(PhotoError, match="no photo: it starts with"):
        decode.decode(encoded(picture(), "EPS"), 32)


@pytest.mark.skipif("HEIF" not in decode.FORMATS, reason="pillow-heif is not installed")
def test_heic_is_read_and_not_rotated_twice():
    exif = Image.Exif()
    exif[0x0112] = (
        6  # in HEIC only a note: the format has a rotation of its own, which the decoder applies
    )
    for options in ({}, {"exif": exif}):
        found = decode.decode(encoded(picture(), "HEIF", quality=95, **options), 32).astype(int)
        assert abs(found - decode.resize(picture(), 32)).mean() < 3
    with pytest.raises(PhotoError, match="damaged"):
        decode.decode(encoded(picture(), "HEIF")[:600], 32)


def test_heic_without_its_decoder_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(decode, "FORMATS", [name for name in decode.FORMATS if name != "HEIF"])
    with pytest.raises(PhotoError, match="pip install pillow-heif"):
        decode.decode(b"\0\0\0\x18ftypheic" + bytes(100), 32)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(PhotoError, match="no such file"):
        decode.decode(tmp_path / "none.jpg", 32)
    with pytest.raises(PhotoError, match="folder"):
        decode.decode(tmp_path, 32)


def test_paths_bytes_and_files_give_the_same(tmp_path):
    content = encoded(picture(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    with open(tmp_path / "a.jpg", "rb") as file:
        from_file = decode.decode(file, 24)
    assert np.array_equal(from_file, decode.decode(content, 24))
    assert np.array_equal(from_file, decode.decode(str(tmp_path / "a.jpg"), 24))


def test_a_color_profile_does_not_get_in_the_way():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode.decode(encoded(picture(), "JPEG", icc_profile=profile), 32).shape == (32, 32, 3)


def test_a_figure_shows_a_photo_that_cannot_be_decoded_white_and_names_it(tmp_path, capsys):
    picture().save(tmp_path / "1.png")
    (tmp_path / "2.jpg").write_bytes(b"no photo")
    shown = decode.to_show((tmp_path / name for name in ("1.png", "2.jpg", "3.jpg")), 24)
    np.testing.assert_array_equal(shown[0], decode.decode(tmp_path / "1.png", 24))
    assert [image.shape for image in shown] == [(24, 24, 3)] * 3
    assert [bool((image == 255).all()) for image in shown] == [False, True, True]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "2.jpg is shown white: no photo" in said[0]
    assert said[1].endswith("3.jpg is shown white: no such file")
