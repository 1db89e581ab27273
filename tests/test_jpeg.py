"""The fast path of ordinary JPEG files, and the resizer: pixels are Pillow's, or next to them."""

import io
import os
import random
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import hostile
import numpy as np
import pytest
from PIL import Image

from catsdogs.data import decode, jpeg, resize
from catsdogs.data.decode import PhotoError, read_image

needs_resizer = pytest.mark.skipif(resize.fast is None, reason="not installed: cykooz-resizer")


def picture(width=97, height=61, seed=0):
    """Coarse noise, enlarged: edges and colors in every block."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 5, width // 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(content, monkeypatch):
    """`read_image` without the fast path."""
    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "decode", lambda content: None)
        return read_image(content)


KINDS = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "RGB": {"keep_rgb": True},
    "poor": {"quality": 8},
    "large": {"size": (1300, 901)},
}


@pytest.mark.parametrize("kind", [*KINDS, "gray"])
def test_the_fast_path_has_pillows_pixels(kind, monkeypatch):
    options = dict(KINDS.get(kind, {}))
    image = picture(*options.pop("size", (97, 61)))
    content = encoded(image.convert("L") if kind == "gray" else image, **options)
    assert jpeg.decode(content) is not None
    expected = by_pillow(content, monkeypatch)
    assert np.array_equal(np.asarray(read_image(content)), np.asarray(expected))
    assert np.array_equal(decode.decode(content, 32), decode.resize(expected, 32))


@pytest.mark.parametrize("size", [(97, 61), (1300, 901)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["EXIF", "XMP"])
def test_the_fast_path_turns_photos_upright(size, orientation, where, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    content = encoded(picture(*size), **({"exif": exif} if where == "EXIF" else {"xmp": xmp}))
    assert jpeg.decode(content) is not None
    expected = by_pillow(content, monkeypatch)
    assert expected.size == (size[::-1] if orientation > 4 else size)
    assert np.array_equal(np.asarray(read_image(content)), np.asarray(expected))
    assert np.array_equal(decode.decode(content, 32), decode.resize(expected, 32))


def test_cmyk_and_other_formats_are_left_to_pillow():
    assert jpeg.decode(encoded(picture().convert("CMYK"))) is None
    assert jpeg.decode(hostile.png(width=4, height=4)) is None
    assert jpeg.decode(b"") is None


def test_a_header_that_promises_too_much_is_left_to_pillow():
    content = encoded(picture())
    at = content.index(b"\xff\xc0") + 5
    huge = content[:at] + struct.pack(">HH", 60_000, 60_000) + content[at + 4 :]
    assert jpeg.decode(huge) is None
    with pytest.raises(PhotoError, match="60000×60000 pixels"):
        decode.decode(huge, 32)
    assert jpeg.decode(huge[: len(huge) // 2]) is None
    with pytest.raises(PhotoError):
        decode.decode(huge[: at + 4], 32)


def test_damaged_files_have_pillows_pixels_or_pillows_error(monkeypatch):
    """What libjpeg-turbo accepts without a warning, Pillow accepts, and finds the same pixels."""
    chance = random.Random(0)
    originals = [
        encoded(picture(seed=seed), **options)
        for seed, options in enumerate(
            [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}]
        )
    ]
    originals.append(encoded(picture().convert("L")))
    originals.append(encoded(picture().convert("CMYK")))
    accepted = 0
    for _ in range(600):
        content = bytearray(chance.choice(originals))
        head = content.index(b"\xff\xda") + 20
        kind = chance.choice(("header", "anywhere", "insert", "delete", "cut"))
        at = chance.randrange(2, len(content) if kind in ("anywhere", "cut") else head)
        if kind == "cut":
            del content[at:]
        elif kind == "delete":
            del content[at : at + chance.randint(1, 8)]
        elif kind == "insert":
            content[at:at] = chance.randbytes(chance.randint(1, 8))
        else:
            content[at] = chance.randrange(256)
        content = bytes(content)
        if jpeg.decode(content) is None:
            continue
        accepted += 1
        assert np.array_equal(np.asarray(read_image(content)), by_pillow(content, monkeypatch))
    assert accepted > 60


@pytest.mark.skipif(not os.environ.get("CATSDOGS_TEST_ARCHIVE"), reason="no real photos at hand")
def test_real_photos_have_pillows_pixels(monkeypatch):
    fast = 0
    with zipfile.ZipFile(os.environ["CATSDOGS_TEST_ARCHIVE"]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::6]
        for content in map(archive.read, names):
            fast += jpeg.decode(content) is not None
            expected = by_pillow(content, monkeypatch)
            assert np.array_equal(np.asarray(read_image(content)), np.asarray(expected))
    assert fast > 0.9 * len(names) > 0


SIZES = [(180, 180), (500, 374), (374, 500), (60, 50), (1, 1), (1, 900), (900, 1), (128, 128)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [3, 64, 128])
def test_resizing_is_within_one_level_of_pillows(size, target):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    found = decode.resize(noise, target)
    assert found.shape == (target, target, 3) and found.dtype == np.uint8
    expected = Image.fromarray(noise).resize((target, target), Image.Resampling.BILINEAR)
    assert abs(found.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_images_and_arrays_of_three_and_of_four_channels_are_resized_alike(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)
    three = np.ascontiguousarray(noise[..., :3])
    expected = decode.resize(three, 64)
    for image in (noise, noise[..., :3], Image.fromarray(three), np.asfortranarray(three)):
        found = decode.resize(image, 64)
        assert np.array_equal(found, expected) and found.flags.c_contiguous


@pytest.mark.parametrize("size", [*SIZES, (2048, 1365), (31, 2900)])
@pytest.mark.parametrize("target", [3, 64, 128])
def test_resizing_without_its_package_gives_the_same_pixels(size, target, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    noise[: size[1] // 2] = np.where(noise[: size[1] // 2] > 127, 255, 0)  # the extremes
    expected = decode.resize(noise, target)
    monkeypatch.setattr(resize, "fast", None)
    for image in (noise, Image.fromarray(noise), np.dstack([noise, noise[..., :1]])):
        found = decode.resize(image, target)
        assert np.array_equal(found, expected) and found.flags.c_contiguous


def test_decoding_without_its_package_gives_the_same_pixels(monkeypatch):
    content = encoded(picture())
    expected = decode.decode(content, 32)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert jpeg.decode(content) is None
    assert np.array_equal(decode.decode(content, 32), expected)


@needs_resizer
def test_resizing_is_the_same_on_every_processor(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    expected, tried = decode.resize(noise, 128), 0
    for extension in resize.fast.CpuExtensions:
        resizer = resize.fast.Resizer()
        try:
            resizer.cpu_extensions = extension
        except Exception:  # this processor does not have it
            continue
        tried += 1
        monkeypatch.setattr(resize._PER_THREAD, "resizer", resizer)
        assert np.array_equal(decode.resize(noise, 128), expected), extension
    assert tried >= 2


def test_threads_do_not_disturb_each_other():
    images = [
        np.random.default_rng(seed).integers(0, 256, (50 + seed, 90 - seed, 3), np.uint8)
        for seed in range(40)
    ]
    expected = [decode.resize(image, 48) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(
            pool.map(lambda image: decode.resize(image, 48), images * 5), expected * 5
        ):
            assert np.array_equal(found, one)
