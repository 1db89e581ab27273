"""Every exported format predicts what the model predicts, and describes itself."""

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import onnx as proto
import pytest
import small_models
from keras import layers
from PIL import Image

from catsdogs import cli as command_line
from catsdogs import files, paths
from catsdogs.analysis import gradcam
from catsdogs.data import check, dataset
from catsdogs.data.decode import decode
from catsdogs.networks import cnn, efficientnet_lite
from catsdogs.networks import onnx as network_onnx
from catsdogs.serving import export, litert, onnx, static_site
from catsdogs.serving.predictor import ModelError, load_model, load_predictor, predict_photos
from catsdogs.training import records
from tools import report

INCLUDED = paths.PROJECT / "models"
ENDINGS = ("keras", "onnx", "tflite")


@pytest.fixture(scope="module")
def images(synthetic_data):
    """Synthetic photos, as arrays of the included model's size."""
    photos = sorted((synthetic_data / "PetImages").glob("*/*.jpg"))[::4]
    return np.stack(
        [
            decode(photo, load_predictor(INCLUDED / "two-conv" / "model.onnx").size)
            for photo in photos
        ]
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_included_format_predicts_the_same_probabilities(images, ending):
    expected = load_model().predict(images, verbose=0)[:, 0]
    given = load_predictor(INCLUDED / "two-conv" / f"model.{ending}")
    assert len(expected) >= 30 and expected.std() > 0.05
    np.testing.assert_allclose(given.predict(images), expected, atol=1e-4)
    np.testing.assert_allclose(given.predict(images[:1]), expected[:1], atol=1e-4)


def test_every_format_has_the_same_calibration():
    record = records.read(report.MODEL)
    for ending in (*ENDINGS, "_int8"):
        name = "model_int8.tflite" if ending == "_int8" else f"model.{ending}"
        path = INCLUDED / "two-conv" / name
        calibration = load_predictor(path).calibration
        assert calibration.temperature == pytest.approx(record["calibration"]["temperature"])
        assert calibration.unsure_below == record["calibration"]["unsure_below"]


def test_the_included_formats_were_exported_from_the_included_model_and_agree_on_the_test_set():
    record, facts = (
        records.read(report.MODEL),
        load_predictor(INCLUDED / "two-conv" / "model.onnx").facts,
    )
    assert (
        facts["model_sha256"]
        == record["model_sha256"]
        == files.sha256(INCLUDED / "two-conv" / "model.keras")
    )
    assert f"{record['metrics']['test']['accuracy']['value']:.1%}" in facts["about"]
    for name in ("model.onnx", "model.tflite", "model_int8.tflite"):
        found = record["exports"][name]
        assert found["bytes"] == (INCLUDED / "two-conv" / name).stat().st_size
        assert found["same_label"] >= 0.99 if "int8" in name else found["largest_difference"] < 1e-3


@pytest.mark.skipif(not os.environ.get("CATSDOGS_TEST_ARCHIVE"), reason="no real photos at hand")
def test_on_real_photos_the_8_bit_model_predicts_the_same_labels(empty):
    shutil.rmtree(empty)
    subprocess.run(
        ["bash", paths.PROJECT / "download_data.sh", "zip", os.environ["CATSDOGS_TEST_ARCHIVE"]],
        check=True,
        capture_output=True,
    )
    table = check.check_photos(progress=False)
    found = {
        path.name: list(
            predict_photos(
                load_predictor(path),
                [paths.photos() / photo for photo in table.photo[table.problem == ""]],
            )
        )
        for path in (
            INCLUDED / "two-conv" / f"model{ending}"
            for ending in (".keras", ".onnx", ".tflite", "_int8.tflite")
        )
    }
    expected = np.array([one.probability for one in found["model.keras"]])
    assert len(expected) >= 500
    for name, predictions in found.items():
        given = np.array([one.probability for one in predictions])
        if "int8" in name:
            assert ((given >= 0.5) == (expected >= 0.5)).mean() >= 0.99
        else:
            assert abs(given - expected).max() < 1e-3


def test_the_map_is_grad_cam(images):
    model, written = load_model(), load_predictor(INCLUDED / "two-conv" / "model.onnx")
    probabilities, maps = written.explain(images)
    np.testing.assert_allclose(probabilities, written.predict(images), atol=1e-6)
    assert maps.min() >= 0 and maps.max((1, 2)) == pytest.approx(1, abs=1e-5)
    enlarged = keras.ops.convert_to_numpy(
        keras.ops.image.resize(maps[..., None], images.shape[1:3], interpolation="bilinear")
    )[..., 0]
    expected = gradcam.gradcam(model, images)
    # Grad-CAM scales the enlarged map to a maximum of 1, the ONNX graph the one before that.
    np.testing.assert_allclose(enlarged / enlarged.max((1, 2), keepdims=True), expected, atol=2e-3)


@pytest.mark.parametrize(
    "size, strides, padding, head",
    [
        (33, 2, "same", "flatten"),
        (32, 1, "same", "flatten"),
        (30, 3, "valid", "mean"),
        (32, 2, "same", "mean"),
    ],
)
def test_networks_of_different_shapes(tmp_path, size, strides, padding, head):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(4, 5, strides=strides, padding=padding),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, padding=padding, activation="relu", use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.Flatten() if head == "flatten" else layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(7),
            layers.Activation("relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()]
            )
    onnx.to_onnx(model, tmp_path / "other.onnx", {"temperature": "2.0"})
    images = rng.integers(0, 256, (5, size, size, 3), np.uint8)
    written = load_predictor(tmp_path / "other.onnx")
    assert written.size == size and written.calibration.temperature == 2
    np.testing.assert_allclose(
        written.predict(images), model.predict(images, verbose=0)[:, 0], atol=1e-5
    )
    assert written.explain is not None and written.explain(images)[1].shape[0] == 5


def every_layer(x):
    """Layers that networks of others may have, and a model in a model, called twice."""
    x = layers.ZeroPadding2D(((1, 2), (0, 3)))(x)
    x = layers.Conv2D(4, 3, dilation_rate=2, activation="silu")(x)
    twice = layers.Conv2D(4, 3, padding="same")
    x = layers.BatchNormalization()(twice(x))  # not folded: `twice` is used once more
    x = layers.Add()([twice(x), layers.LeakyReLU(0.1)(x), x, x])
    inside = keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization(), layers.ReLU(6.0)])
    x = layers.Add()([inside(x), inside(layers.ReLU(negative_slope=0.3)(x))])
    x = layers.DepthwiseConv2D((3, 2), strides=2, padding="same", depth_multiplier=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.AveragePooling2D(3, strides=2, padding="same")(layers.Activation("gelu")(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(layers.Activation("tanh")(x))
    x = layers.SpatialDropout2D(0.5)(layers.Activation("elu")(x))
    x = layers.Conv2D(3, 1, activation="relu6")(layers.Activation("leaky_relu")(x))
    return layers.GlobalMaxPooling2D()(layers.Identity()(x))


@pytest.mark.parametrize("network", ["every layer", "residual", "efficientnet", "two_conv"])
def test_networks_of_every_kind(tmp_path, network):
    keras.utils.set_random_seed(3)
    images = keras.Input((50, 50, 3))
    if network == "every layer":
        scaled = layers.Normalization(mean=[1.0, 60, 128], variance=[9.0, 100, 400])(images)
        made = layers.Dense(1, activation="sigmoid")(every_layer(scaled))
    elif network == "residual":
        small = cnn.residual(8, filters=(8, 12), blocks=(1, 2), stochastic_depth=0.5)
        made = keras.models.clone_model(small, input_tensors=images).output
    elif network == "efficientnet":
        features = efficientnet_lite.build("efficientnet-lite0", 50)
        head = keras.Sequential([layers.Dropout(0.2), layers.Dense(1, activation="sigmoid")])
        made = head(features(images))
    else:
        overlapping = dict(pool_sizes=(3, 2), pool_strides=(2, 1), kernel_sizes=(5, 3))
        made = cnn.two_conv(50, filters=(4, 8), dense_units=8, **overlapping)(images)
    model = keras.Model(images, made)
    rng = np.random.default_rng(0)
    for weight in model.weights if network != "efficientnet" else ():
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    onnx.to_onnx(model, tmp_path / "model.onnx")
    written = load_predictor(tmp_path / "model.onnx")
    photos = (rng.random((6, 50, 50, 3)) * np.linspace(5, 255, 6)[:, None, None, None]).astype("u1")
    expected = model.predict(photos, verbose=0)[:, 0]
    assert len(set(expected.round(6))) == 6
    np.testing.assert_allclose(written.predict(photos), expected, atol=1e-5)
    assert written.can_explain == (network != "every layer")


def test_batch_normalization_is_folded_into_the_convolution_before_it(tmp_path):
    features = efficientnet_lite.build("efficientnet-lite0", 32)
    made = proto.load_from_string(network_onnx.to_onnx(features, "features"))
    kinds = Counter(node.op_type for node in made.graph.node)
    assert kinds["Conv"] == 49 and kinds["Mul"] == 1  # that of the pixels
    used = {name for node in made.graph.node for name in node.input}
    assert {weight.name for weight in made.graph.initializer} <= used


def test_class_activation_maps_of_residual_blocks_are_grad_cam(tmp_path):
    keras.utils.set_random_seed(0)
    small = cnn.residual(8, filters=(8, 12), blocks=(1, 1))
    model = keras.models.clone_model(small, input_tensors=keras.Input((48, 48, 3)))
    path = tmp_path / "model.keras"
    model.save(path)
    export.onnx_beside(path)
    model, written = load_predictor(path), load_predictor(path.with_suffix(".onnx"))
    photos = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    (probabilities, maps), (same, expected) = written.explain(photos), model.explain(photos)
    np.testing.assert_allclose(probabilities, same, atol=1e-5)
    assert maps.shape == (4, 6, 6) and expected.shape == (4, 48, 48)
    enlarged = keras.ops.image.resize(maps[..., None], (48, 48), interpolation="bilinear")
    enlarged = keras.ops.convert_to_numpy(enlarged)[..., 0]
    np.testing.assert_allclose(enlarged / enlarged.max((1, 2), keepdims=True), expected, atol=2e-3)


def upsampling(images):
    return layers.UpSampling2D(2)(images)


def arithmetic(images):
    return images * 2.0


def rows_normalized(images):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(9, 3, padding="same")(images))


def layer_as_activation(images):
    return layers.Conv2D(2, 3, activation=layers.ELU())(images)


def channels_first(images):
    return layers.MaxPooling2D(2, data_format="channels_first")(images)


@pytest.mark.parametrize(
    "unusual, said",
    [
        (upsampling, "UpSampling2D, cannot be written as ONNX"),
        (rows_normalized, "normalizes axis 1, which cannot be written as ONNX"),
        (layer_as_activation, "has the activation 'ELU', which cannot be written as ONNX"),
        (arithmetic, "'Multiply' cannot be written as ONNX: expected layers"),
        (channels_first, "'channels_first', which cannot be written as ONNX"),
    ],
)
def test_a_network_that_cannot_be_exported_is_reported_in_one_line(tmp_path, capsys, unusual, said):
    images = keras.Input((9, 9, 3))
    x = layers.Flatten()(unusual(layers.Rescaling(1 / 255)(images)))
    model = keras.Model(images, layers.Dense(1, activation="sigmoid")(x))
    model.save(tmp_path / "other.keras")
    assert command_line.main(["export", "--model", str(tmp_path / "other.keras")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other.keras"]


def test_every_channel_may_have_a_scale_of_its_own(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Rescaling([0.001, 0.01, 0.02], offset=[-1.0, 0.0, 1.0]),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    onnx.to_onnx(model, tmp_path / "mine.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    np.testing.assert_allclose(
        load_predictor(tmp_path / "mine.onnx").predict(images),
        model.predict(images, verbose=0)[:, 0],
        atol=1e-5,
    )


def test_the_8_bit_model_takes_bytes_and_comes_close(tmp_path, images):
    model = load_model()
    litert.to_int8_litert(model, tmp_path / "small.tflite", images)
    quantized = load_predictor(tmp_path / "small.tflite").predict(images)
    assert (tmp_path / "small.tflite").stat().st_size < model.count_params() * 1.5
    assert 0 < abs(quantized - load_predictor().predict(images)).max() < 0.2


def test_the_metadata_describe_the_model_and_how_well_it_does(tmp_path):
    model, record = load_model(), records.read(report.MODEL)
    about = export.describe(INCLUDED / "two-conv" / "model.keras", model)["about"]
    test = record["metrics"]["test"]
    for words in (
        f"{record['parameters']:,} parameters",
        f"trained on {record['data']['photos']['train']:,} photos",
        f"test accuracy is {test['accuracy']['value']:.1%} (95% CI {test['accuracy']['low']:.1%}",
        f"n = {test['photos']:,}",
    ):
        assert words in about
    # Without a record there are no such numbers; that of a different model is no record of it.
    path = shutil.copy(INCLUDED / "two-conv" / "model.keras", tmp_path)
    assert "accuracy" not in export.describe(Path(path), model)["about"]
    (tmp_path / "record.json").write_text(json.dumps(record | {"model_sha256": "another"}))
    with pytest.raises(ModelError, match="not the model that record.json beside it describes"):
        export.describe(Path(path), model)


def test_the_comparison_counts_labels_and_measures_probabilities(images):
    path = INCLUDED / "two-conv" / "model.onnx"
    found = export.compare(INCLUDED / "two-conv" / "model.keras", [path], images)
    assert found == {
        "model.onnx": {
            "bytes": path.stat().st_size,
            "largest_difference": pytest.approx(0, abs=1e-4),
            "same_label": 1.0,
        }
    }


# --- the static site --------------------------------------------------------------------------


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A command `npm` that packs three small files, as the real one packs ONNX Runtime Web."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in static_site.ORT_WEB_FILES:
        (tmp_path / "package" / "dist").mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / "dist" / name).write_text(name)
    package = folder / "onnxruntime-web-1.tgz"
    subprocess.run(["tar", "czf", package, "-C", tmp_path, "package"], check=True)
    (folder / "npm").write_text(
        f'#!/bin/sh\n[ "$3" = {static_site.ORT_WEB} ] || exit 9\ncp {package} .\n'
    )
    (folder / "npm").chmod(0o755)
    checksum = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    monkeypatch.setattr(static_site, "ORT_WEB_INTEGRITY", f"sha512-{checksum}")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_static_site_is_complete_and_is_replaced_as_a_whole(tmp_path, npm):
    folder = tmp_path / "site"
    for _ in range(2):
        static_site.build([INCLUDED / "two-conv" / "model.onnx"], folder)
    assert sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ) == sorted(
        [
            "index.html",
            "page.js",
            "page.css",
            "browser.js",
            "decode.js",
            "resize.js",
            "start.js",
            "camera.js",
            "worker.js",
            "model.onnx",
            "models.json",
            "manifest.webmanifest",
            "sw.js",
            "icon-192.png",
            "icon-512.png",
            "icon-maskable.png",
            # No .mjs, which many web servers do not know.
            "ort/ort.wasm.min.js",
            "ort/ort-wasm-simd-threaded.js",
            "ort/ort-wasm-simd-threaded.wasm",
        ]
    )
    page = (folder / "index.html").read_text()
    assert 'data-classifier="browser.js"' in page and "server.js" not in page
    (facts,) = json.loads((folder / "models.json").read_text())["models"]
    calibration = records.read(report.MODEL)["calibration"]
    assert (
        facts["temperature"] == pytest.approx(calibration["temperature"])
        and facts["has_map"]
        and facts["size"] == 128
        and facts["bytes"] == (folder / "model.onnx").stat().st_size
    )
    assert (folder / "model.onnx").read_bytes() == (
        INCLUDED / "two-conv" / "model.onnx"
    ).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_package_that_is_not_the_expected_one_is_refused(tmp_path, npm, monkeypatch):
    monkeypatch.setattr(static_site, "ORT_WEB_INTEGRITY", "sha512-of-another")
    with pytest.raises(ModelError, match="checksum is not that of onnxruntime-web"):
        static_site.build([INCLUDED / "two-conv" / "model.onnx"], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_folder_with_anything_else_is_left_alone(tmp_path, npm):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(ModelError, match="not an earlier build"):
        static_site.build([INCLUDED / "two-conv" / "model.onnx"], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_the_static_site_is_never_written_over_the_model(tmp_path, npm, capsys):
    """Exported into the model's own folder, beside the .onnx file that the same command wrote."""
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(INCLUDED / "two-conv" / "model.keras", mine / "model.keras")
    assert (
        command_line.main(["export", "--model", str(mine / "model.keras"), "--web", str(mine)]) == 2
    )
    assert "not an earlier build" in capsys.readouterr().err and (mine / "model.keras").exists()
    (mine / "page").mkdir()
    (mine / "page" / "model.onnx").write_bytes(b"somebody's own")
    with pytest.raises(ModelError, match="not an earlier build"):
        static_site.build([INCLUDED / "two-conv" / "model.onnx"], mine / "page")


@pytest.mark.parametrize(
    "npm_does, said", [("exit 1", "could not fetch"), (None, "npm is not installed")]
)
def test_without_npm_the_error_says_so(tmp_path, monkeypatch, npm_does, said):
    (tmp_path / "bin").mkdir()
    if npm_does:
        (tmp_path / "bin" / "npm").write_text(
            f"#!/bin/sh\necho 'npm error network' >&2\n{npm_does}\n"
        )
        (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv(
        "PATH",
        f"{tmp_path / 'bin'}{os.pathsep}/bin-that-is-not"
        if npm_does is None
        else f"{tmp_path / 'bin'}:/bin:/usr/bin",
    )
    with pytest.raises(ModelError, match=said):
        static_site.build([INCLUDED / "two-conv" / "model.onnx"], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_command_line_exports_and_says_what_it_left_out(synthetic, tmp_path, npm, capsys):
    mine = tmp_path / "runs" / "mine"
    mine.mkdir(parents=True)
    for name in ("model.keras", "record.json"):
        shutil.copy(INCLUDED / "two-conv" / name, mine)
    assert command_line.main(["export", "--model", "mine", "--web", str(tmp_path / "site")]) == 0
    printed = capsys.readouterr().out
    assert "No 8-bit LiteRT file" in printed and "http.server" in printed and dataset.is_synthetic()
    assert sorted(path.name for path in mine.iterdir()) == [
        "model.h5",
        "model.keras",
        "model.onnx",
        "model.tflite",
        "record.json",
    ]
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=tmp_path / "site"),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/") as response:
        assert b"browser.js" in response.read()
    server.shutdown()


@pytest.fixture(scope="module")
def with_neither(tmp_path_factory):
    folder = tmp_path_factory.mktemp("with neither") / "two"
    return folder, small_models.with_neither(folder)


@pytest.mark.parametrize("file", ["model.keras", "model.onnx", "model.tflite", "model_int8.tflite"])
def test_neither_is_an_output_of_every_format(with_neither, file):
    folder, images = with_neither
    predictor = load_predictor(folder / file)
    found = predictor.run(images, batch_size=25)
    bright = images.mean((1, 2, 3))
    clearly = abs(bright - 127.5) > 4
    assert clearly.sum() > 40 and found.neither.shape == (60,) and found.maps is None
    assert np.array_equal(found.neither[clearly] >= 0.5, bright[clearly] > 127.5)
    np.testing.assert_array_equal(found.probabilities, predictor.predict(images, batch_size=25))
    labels = [predictor.prediction("", *found.of(index)).label for index in range(60)]
    assert [label == "neither" for label in labels] == list(found.neither >= 0.5)
    both = predictor.run(images[:5], flip=True)
    np.testing.assert_allclose(both.neither, found.neither[:5], atol=0.01)  # as bright
    if predictor.can_explain:
        maps = predictor.run(images[:5], maps=True)
        np.testing.assert_allclose(maps.neither, found.neither[:5], atol=1e-5)
        assert maps.maps.shape[0] == 5 and maps.maps.max() == pytest.approx(1, abs=1e-5)


def test_the_command_line_says_neither(with_neither, tmp_path, capsys):
    folder, _ = with_neither
    for name, gray in (("bright.png", 250), ("dark.png", 10)):
        Image.new("RGB", (60, 50), (gray,) * 3).save(tmp_path / name)
    given = ["predict", "--model", str(folder), str(tmp_path)]
    assert command_line.main(given) == 0
    bright, dark = (line.rsplit("  ", 2)[1:] for line in capsys.readouterr().out.splitlines())
    assert bright[0] == "neither" and float(bright[1].rstrip("%")) > 95
    assert dark[0] in ("cat", "dog", "unsure")
    assert command_line.main([*given, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["label"] == "neither" for one in found] == [True, False]
    assert found[0]["neither"] > 0.95 and found[1]["neither"] < 0.05
    assert command_line.main([*given, "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].endswith(",neither") and float(rows[1].rsplit(",", 1)[1]) > 0.95


def test_two_models_of_one_name_are_not_exported_over_each_other(tmp_path, capsys):
    """Each model goes into a folder of its name, below that of --output."""
    for folder in ("a", "b"):
        (tmp_path / folder / "mine").mkdir(parents=True)
        shutil.copy(INCLUDED / "two-conv" / "model.keras", tmp_path / folder / "mine")
    given = [f"--model={tmp_path / folder / 'mine'}" for folder in ("a", "b")]
    assert command_line.main(["export", *given, "--output", str(tmp_path / "out")]) == 2
    assert "models called 'mine', 'mine': expected names that differ" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_outputs_by_other_names_are_refused(tmp_path):
    images = keras.Input((8, 8, 3))
    x = layers.Dense(1, activation="sigmoid")(layers.Flatten()(layers.Rescaling(1 / 255)(images)))
    keras.Model(images, {"probability": x, "other": x}).save(tmp_path / "other.keras")
    with pytest.raises(ModelError, match="'other'.*expected a model"):
        load_model(tmp_path / "other.keras")
    plain = layers.Dense(1, name="plain")(layers.Flatten()(layers.Rescaling(1 / 255)(images)))
    keras.Model(images, {"probability": x, "neither": plain}).save(tmp_path / "linear.keras")
    with pytest.raises(ModelError, match="'plain' with the activation 'linear': expected a sig"):
        load_model(tmp_path / "linear.keras")
