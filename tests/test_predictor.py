"""Photos are classified: from Python, and from the command line as a user would."""

import csv
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from catsdogs import cli as command_line
from catsdogs import paths
from catsdogs.analysis.calibration import (
    Calibration,
    calibrate,
    fit_temperature,
    selective_accuracy,
)
from catsdogs.data.decode import PhotoError, decode
from catsdogs.networks import cnn, portable
from catsdogs.serving import onnx
from catsdogs.serving.photos import fetch, find_photos
from catsdogs.serving.predictor import (
    ModelError,
    Prediction,
    Predictor,
    explain_photos,
    keras_predictor,
    load_model,
    load_predictor,
    predict_photos,
)
from catsdogs.text import percent_confident

#: What predict says first: which model it took.
MODEL = "model: two-conv, included\n"


@pytest.fixture(scope="module")
def album(synthetic_data, tmp_path_factory):
    """A folder with photos, also in folders below it, and with files that are not photos."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "deep" / "er").mkdir(parents=True)
    photos = sorted((synthetic_data / "PetImages").glob("*/*.jpg"))
    shutil.copy(photos[0], folder / "b.jpg")
    shutil.copy(photos[1], folder / "deep" / "A.JPG")
    shutil.copy(photos[-1], folder / "deep" / "er" / "c d.jpeg")
    (folder / "broken.jpg").write_bytes(photos[2].read_bytes()[:200])
    (folder / "page.png").write_text("<html>no photo</html>")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def shell(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "catsdogs", "predict", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=paths.PROJECT,
        **options,
    )


def test_folders_are_searched_and_files_taken_as_they_are(album):
    names = [path.relative_to(album).as_posix() for path in find_photos([album])]
    assert names == ["b.jpg", "broken.jpg", "deep/A.JPG", "deep/er/c d.jpeg", "page.png"]
    assert list(find_photos([album / "notes.txt"])) == [album / "notes.txt"]


def test_every_photo_gets_its_prediction_in_order_whatever_the_batch_size(album):
    predictor, model = load_predictor(), load_model()
    photos = list(find_photos([album]))
    predictions = list(predict_photos(predictor, photos))
    assert [one.photo for one in predictions] == [str(photo) for photo in photos]
    assert [one.photo for one in predictions if one.error] == [
        str(album / "broken.jpg"),
        str(album / "page.png"),
    ]
    for one in predictions:
        if one.probability is None:
            assert one.label is None
            continue
        alone = float(model.predict(decode(one.photo, model.input_shape[1])[None], verbose=0)[0, 0])
        assert one.probability == pytest.approx(alone, abs=1e-5)
        assert one.confidence == pytest.approx(predictor.calibration.confidence(alone), abs=1e-4)
        assert one.label in ("unsure", "dog" if alone >= 0.5 else "cat")
        assert (one.label == "unsure") == (one.confidence < predictor.calibration.unsure_below)
    for batch_size in (1, 2):
        again = list(predict_photos(predictor, photos, batch_size=batch_size))
        assert [one.error for one in again] == [one.error for one in predictions]
        np.testing.assert_allclose(
            [one.probability or 0 for one in again],
            [one.probability or 0 for one in predictions],
            atol=1e-5,
        )


def test_the_command_line_classifies_what_it_can_and_names_the_rest(album):
    run = shell(album)
    lines = run.stdout.splitlines()
    assert run.returncode == 1 and len(lines) == 3
    path, label, confidence = lines[0].rsplit("  ", 2)
    assert path == str(album / "b.jpg") and label in ("cat", "dog", "unsure")
    # The confidence, as the probability of dog would read as 0% confidence beside "cat".
    assert confidence.endswith("%") and 50 <= float(confidence[:-1]) < 100
    errors = run.stderr.splitlines()
    assert (
        len(errors) == 3
        and errors[0] == "model: two-conv, included"
        and errors[1].startswith(f"{album}/broken.jpg: ")
        and "Traceback" not in run.stderr
    )


def test_a_confidence_is_never_more_than_it_is():
    assert percent_confident(0.9234) == "92%" and percent_confident(0.9234, 1) == "92.3%"
    assert percent_confident(0.7999, 1) == "79.9%"  # "unsure" below 80%
    assert percent_confident(1.0) == "99%" and percent_confident(0.99999, 1) == "99.9%"
    assert percent_confident(0.5) == "50%" and percent_confident(0.29 + 0.28) == "57%"


def test_json_and_csv_say_the_same(album):
    good = [album / "b.jpg", album / "deep"]
    as_json, as_csv = shell("--json", *good), shell("--csv", *good)
    assert as_json.returncode == as_csv.returncode == 0 and as_json.stderr == as_csv.stderr == MODEL
    objects = [json.loads(line) for line in as_json.stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert len(objects) == 3
    assert [
        (o["photo"], o["label"], f"{o['probability']:.6f}", f"{o['confidence']:.6f}", "")
        for o in objects
    ] == [tuple(row.values()) for row in rows]
    assert list(rows[0]) == ["photo", "label", "probability", "confidence", "neither"]
    assert all(one["neither"] is None for one in objects)  # this model has no score for it


def test_names_cannot_be_formulas_or_no_names(album, tmp_path, monkeypatch, capsys):
    """Spreadsheets run what begins with these; an empty name would stand for the whole folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("=cmd|' -C calc'!A0.jpg", "+1.jpg", "@1.jpg", "-1.jpg", "\t=1.jpg", "1=.jpg"):
        shutil.copy(album / "b.jpg", name)
    model = str(paths.PROJECT / "models" / "two-conv" / "model.onnx")
    assert command_line.main(["predict", "--csv", "--model", model, "."]) == 0
    names = [row["photo"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert len(names) == 6 and not [one for one in names if one[0] in "=+-@\t\r"]
    assert sum((tmp_path / name).is_file() for name in names) == 5  # the tab is escaped
    for arguments in (["predict", ""], ["predict", "--model", " ", "1=.jpg"]):
        with pytest.raises(SystemExit) as error:
            command_line.main(arguments)
        assert error.value.code == 2 and "it is empty" in capsys.readouterr().err


def test_names_cannot_forge_lines(album, tmp_path):
    odd = tmp_path / "a\nb \x1b[31m.jpg"
    shutil.copy(album / "b.jpg", odd)
    run = shell(odd, tmp_path / "missing\r.jpg")
    assert run.returncode == 1 and len(run.stdout.splitlines()) == 1 and "\x1b" not in run.stdout
    assert (
        "a\\nb \\x1b[31m.jpg" in run.stdout
        and run.stderr == f"{MODEL}{tmp_path}/missing\\r.jpg: no such file\n"
    )


def test_a_folder_without_photos_is_reported(tmp_path):
    run = shell(tmp_path)
    assert (
        run.returncode == 1
        and run.stdout == ""
        and run.stderr == f"{tmp_path}: a folder without photos\n{MODEL}"
    )


def test_a_reader_that_closes_the_pipe_is_no_error(album):
    run = subprocess.run(
        f"{sys.executable} -m catsdogs predict {album} {album} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=paths.PROJECT,
    )
    assert (
        len(run.stdout.splitlines()) == 1
        and "Traceback" not in run.stderr
        and "BrokenPipe" not in run.stderr
    )


def damaged(tmp_path):
    path = tmp_path / "damaged.keras"
    path.write_bytes((paths.PROJECT / "models" / "two-conv" / "model.keras").read_bytes()[:50_000])
    return path


def empty(tmp_path):
    (tmp_path / "empty.keras").touch()
    return tmp_path / "empty.keras"


def vector_input(tmp_path):
    keras.Sequential([keras.Input((7,)), layers.Dense(1)]).save(tmp_path / "other.keras")
    return tmp_path / "other.keras"


def network(*ls, shape=(8, 8, 3), scaled=True, activation="sigmoid", units=1):
    """A function that saves a small network and returns its path."""

    def make(tmp_path):
        first = [layers.Rescaling(1 / 255)] if scaled else []
        last = [layers.Flatten(), layers.Dense(units, activation=activation)]
        model = keras.Sequential([keras.Input(shape), *first, *ls, *last])
        portable.save(model, tmp_path / "mine.keras")
        return tmp_path / "mine.keras"

    return make


def diverged(ending):
    def make(tmp_path):
        model = keras.saving.load_model(network()(tmp_path))
        model.layers[-1].kernel.assign(np.full(model.layers[-1].kernel.shape, np.nan))
        path = tmp_path / f"mine.{ending}"
        model.save(path) if ending == "keras" else onnx.to_onnx(model, path)
        return path

    return make


def two_inputs(tmp_path):
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    output = layers.Dense(1, activation="sigmoid")(layers.Flatten()(layers.Add()(inputs)))
    keras.Model(inputs, output).save(tmp_path / "two.keras")
    return tmp_path / "two.keras"


def foreign_tflite(tmp_path):
    """One whose file does not say what pixels it takes."""
    from tensorflow.lite.tools import flatbuffer_utils

    content = flatbuffer_utils.read_model(
        str(paths.PROJECT / "models" / "two-conv" / "model.tflite")
    )
    content.signatureDefs[0].inputs[0].name = b"input_1"
    flatbuffer_utils.write_model(content, str(tmp_path / "other.tflite"))
    return tmp_path / "other.tflite"


def with_an_unknown_argument(version):
    """A function that saves a network as a Keras of this version might; it returns its path."""

    def make(tmp_path):
        path = network()(tmp_path)
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["config.json"] = parts["config.json"].replace(b'"units"', b'"magic": 3, "units"')
        parts["metadata.json"] = json.dumps({"keras_version": version}).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return path

    return make


def runs_code(tmp_path):
    keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Lambda(lambda x: x), layers.Flatten(), layers.Dense(1)]
    ).save(tmp_path / "code.keras")
    return tmp_path / "code.keras"


def foreign_onnx(tmp_path):
    import onnx

    photos = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [photos], [output]
    )
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
        ),
        tmp_path / "other.onnx",
    )
    return tmp_path / "other.onnx"


def cut_short(ending):
    def make(tmp_path):
        path = tmp_path / f"cut.{ending}"
        path.write_bytes(
            (paths.PROJECT / "models" / "two-conv" / f"model.{ending}").read_bytes()[:100_000]
        )
        return path

    return make


def pickled(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"anything")
    return tmp_path / "model.h5"


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: folder / "none.keras", "no model"),
        (damaged, "no complete .keras file.*get it again"),
        (empty, "no complete .keras file"),
        (with_an_unknown_argument("3.99.0"), r"'magic': 3.*Keras 3.99.0 saved it.*pip install"),
        (with_an_unknown_argument("3.8.0"), r"'magic': 3.*expected a model of Keras's own"),
        (vector_input, "expected a model with the input shape"),
        (two_inputs, "expected a model with the input shape"),
        (network(units=2, activation="softmax"), r"output \(None, 2\): expected a model with"),
        (network(shape=(8, 8, 1)), "expected a model with the input shape"),
        (network(shape=(3, 8, 8)), "expected a model with the input shape"),
        (network(scaled=False), "no layer that scales pixels before 'dense"),
        (network(layers.Conv2D(2, 3), layers.Rescaling(2), scaled=False), "before 'conv2d"),
        (network(activation=None), "activation 'linear': expected a sigmoid"),
        (diverged("keras"), r"weights that are not numbers \(NaN\)"),
        (diverged("onnx"), "predicts nan: expected a probability"),
        (runs_code, "Lambda.*expected a model of Keras's own layers"),
        (pickled, "only those are loaded"),
        (foreign_onnx, "expected a model with the input shape"),
        (foreign_tflite, "input_1 .*expected a model with the input shape"),
        (cut_short("onnx"), "cannot be loaded"),
        (cut_short("tflite"), "cannot be loaded"),
        (lambda folder: folder / "none.onnx", "notebook 02 trains one"),
    ],
    ids=[
        "missing",
        "damaged",
        "empty",
        "newer keras",
        "unknown argument",
        "vector input",
        "two inputs",
        "softmax",
        "greyscale",
        "channels first",
        "rescaling outside",
        "rescaling too late",
        "logits",
        "diverged",
        "diverged onnx",
        "runs code",
        "not keras",
        "foreign onnx",
        "foreign tflite",
        "cut onnx",
        "cut tflite",
        "missing onnx",
    ],
)
def test_a_model_that_cannot_be_used_is_reported_in_one_line(tmp_path, make, said):
    with pytest.raises(ModelError, match=said) as error:
        load_predictor(make(tmp_path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_networks_that_are_built_differently_are_accepted(tmp_path):
    """Scaling by arithmetic, models in models, a sigmoid of its own; with Grad-CAM if possible."""
    images, pixels = keras.Input((8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8)
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(2.0), layers.Conv2D(2, 3)])
    tail = [layers.Flatten(), layers.Dense(1), layers.Activation("sigmoid")]
    networks = {
        "arithmetic": keras.Model(
            images, keras.ops.sigmoid(layers.Dense(1)(layers.Flatten()(images / 255 - 0.5)))
        ),
        "nested": keras.Sequential([keras.Input((8, 8, 3)), inner, keras.Sequential(tail)]),
        "residual": keras.models.clone_model(
            cnn.residual(2, filters=(2, 4), blocks=(1, 1)), input_tensors=images
        ),
    }
    for name, model in networks.items():
        portable.save(model, tmp_path / f"{name}.keras")
        predictor = load_predictor(tmp_path / f"{name}.keras")
        assert predictor.predict(pixels).shape == (2,), name
        assert predictor.can_explain == (name == "residual")
    plain = load_predictor(network(layers.Conv2D(2, 3))(tmp_path))
    assert plain.can_explain and plain.explain(pixels)[1].shape == (2, 8, 8)


def test_a_prediction_that_is_no_probability_is_an_error():
    predictor = Predictor(8, lambda images: np.array([[0.2], [1.5]], np.float32))
    with pytest.raises(ModelError, match="predicts 1.5: expected a probability"):
        predictor.predict(np.zeros((2, 8, 8, 3), np.uint8))


def test_without_a_model_the_command_line_exits_with_2(album, tmp_path):
    run = shell(
        album,
        "--model",
        tmp_path / "none.keras",
        env=os.environ | {"CATSDOGS_RUNS": str(tmp_path)},
    )
    assert run.returncode == 2 and run.stdout == "" and len(run.stderr.splitlines()) == 1


def test_a_photo_from_the_web(album):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=album)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}"
    try:
        assert fetch(f"{site}/b.jpg") == (album / "b.jpg").read_bytes()
        (album / "Félix & co.jpg").write_bytes(b"a cat")
        assert fetch(f" {site}/Félix & co.jpg\n") == b"a cat"
        (found,) = predict_photos(load_predictor(), [("here", fetch(f"{site}/b.jpg"))])
        assert found.photo == "here" and found.label
        with pytest.raises(PhotoError, match="cannot be fetched: HTTP Error 404"):
            fetch(f"{site}/none.jpg")
    finally:
        server.shutdown()
    with pytest.raises(PhotoError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/nobody.jpg", seconds=2)
    with pytest.raises(PhotoError, match="begins with http"):
        fetch("file:///etc/passwd")


def test_a_slow_site_is_given_up(monkeypatch):
    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.2)
            except OSError:
                pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(PhotoError, match="took over 1 seconds"):
        fetch(f"http://127.0.0.1:{server.server_port}/", seconds=1)
    assert time.monotonic() - started < 4
    server.shutdown()
    with pytest.raises(PhotoError, match="cannot be fetched"):
        fetch("http://127.0.0.1/my cat.jpg")


def test_an_address_has_its_time_in_all_and_leads_to_no_other_protocol(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"a cat")

    class Odd(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 20:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)
                return
            self.send_response(302)
            to = self.path[1:] if "://" in self.path else "/again"
            self.send_header("Location", to)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}"
    started = time.monotonic()
    with pytest.raises(PhotoError, match="took over 0.5 seconds"):
        fetch(f"{site}/slow", seconds=0.5)
    assert time.monotonic() - started < 2
    for elsewhere in ("ftp://127.0.0.1/a.jpg", f"file://{tmp_path}/secret.jpg", "data://x"):
        with pytest.raises(PhotoError, match="(?i)cannot be fetched: .*redirect"):
            fetch(f"{site}/{elsewhere}")
    with pytest.raises(PhotoError, match="cannot be fetched: .*loop"):
        fetch(f"{site}/again")
    server.shutdown()
    with pytest.raises(PhotoError) as refused:
        fetch("http://me:secret@127.0.0.1:9/cat.jpg", seconds=2)
    for misspelled in ("http://[x/cat.jpg", "http://x:port/cat.jpg", "http:///cat.jpg"):
        with pytest.raises(PhotoError, match="cannot be fetched"):
            fetch(misspelled, seconds=2)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "close, said",
    [(">&-", "standard output is closed"), (">/dev/full", "cannot write the predictions")],
)
def test_predictions_that_cannot_be_written(album, close, said):
    if "full" in close and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    run = subprocess.run(
        f"{sys.executable} -m catsdogs predict {album}/b.jpg {close}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=paths.PROJECT,
    )
    assert run.returncode == 2 and said in run.stderr and "Traceback" not in run.stderr


def test_names_that_the_terminal_cannot_show(album, tmp_path):
    shutil.copy(album / "b.jpg", tmp_path / "größe.jpg")
    run = shell(tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0 and "gr\\xf6\\xdfe.jpg" in run.stdout


def test_an_unusable_run_record_is_ignored(tmp_path):
    shutil.copy(paths.PROJECT / "models" / "two-conv" / "model.tflite", tmp_path)
    for content in (
        "[1]",
        '{"calibration": 3}',
        '{"calibration": {"temperature": "warm"}}',
        "not JSON",
        '{"calibration": {"temperature": 0, "unsure_below": 0.9}}',
    ):
        (tmp_path / "record.json").write_text(content)
        assert load_predictor(tmp_path / "model.tflite").calibration == Calibration()


# --- images -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(synthetic_data):
    photos = sorted((synthetic_data / "PetImages").glob("*/*.jpg"))[::12]
    return np.stack([decode(photo, 128) for photo in photos])


@pytest.mark.parametrize("suffix", ["keras", "onnx", "tflite"])
def test_predict_takes_any_number_of_images(images, suffix):
    predictor = load_predictor(paths.PROJECT / "models" / "two-conv" / f"model.{suffix}")
    expected = predictor.predict(images)
    assert len(images) == 10 and expected.shape == (10,) and expected.std() > 0.05
    np.testing.assert_allclose(predictor.predict(images, batch_size=3), expected, atol=1e-5)
    assert predictor.predict(images[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"expected uint8, \(images, 128, 128, 3\)"):
        predictor.predict(images[:, :64])
    with pytest.raises(ValueError, match="images are float32"):
        predictor.predict(images.astype("float32"))


def test_flip_averages_in_the_prediction_for_the_horizontal_flip(images):
    predictor = load_predictor(paths.PROJECT / "models" / "two-conv" / "model.onnx")
    separately = [predictor.predict(images), predictor.predict(images[:, :, ::-1])]
    assert abs(separately[0] - separately[1]).max() > 0.001
    np.testing.assert_allclose(predictor.predict(images, flip=True), sum(separately) / 2, atol=1e-6)


@pytest.mark.parametrize("suffix", ["keras", "onnx"])
def test_explain_returns_a_map_for_every_image(images, suffix):
    predictor = load_predictor(paths.PROJECT / "models" / "two-conv" / f"model.{suffix}")
    probabilities, maps = predictor.explain(images, batch_size=4)
    np.testing.assert_allclose(probabilities, predictor.predict(images), atol=1e-5)
    assert predictor.can_explain and len(maps) == 10 and maps.ndim == 3
    np.testing.assert_allclose(maps, predictor.explain(images)[1], atol=1e-3)
    assert len(predictor.explain(images[:0])[1]) == 0


def test_a_model_without_grad_cam_says_so(images, album):
    predictor = load_predictor(paths.PROJECT / "models" / "two-conv" / "model.tflite")
    assert not predictor.can_explain
    with pytest.raises(ModelError, match="no Grad-CAM: expected a .keras file"):
        predictor.explain(images)
    assert explain_photos(predictor, [album / "b.jpg"]).maps is None


@pytest.mark.parametrize("suffix", ["keras", "onnx"])
def test_explained_photos_fit_a_figure(album, suffix):
    predictor = load_predictor(paths.PROJECT / "models" / "two-conv" / f"model.{suffix}")
    photos = [album / "b.jpg", album / "broken.jpg", ("bytes", (album / "b.jpg").read_bytes())]
    images, predictions, maps = explain_photos(predictor, photos, batch_size=2)
    expected = list(predict_photos(predictor, photos))
    assert [one.photo for one in predictions] == [one.photo for one in expected]
    assert [one.label for one in predictions] == [one.label for one in expected]
    assert np.array_equal(images[0], decode(album / "b.jpg", 128)) and (images[1] == 255).all()
    assert maps.shape == (3, 128, 128) and maps[0].max() > 0.9 and not maps[1].any()
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-3)
    assert predictions[0].title == (
        f"{expected[0].label}, {percent_confident(expected[0].confidence)} confidence\n"
        f"{expected[0].probability:.3f} dog"
    )
    assert predictions[1].title.startswith("no prediction\n")
    none = explain_photos(predictor, [])
    assert len(none.images) == len(none.predictions) == len(none.maps) == 0


def test_a_loaded_keras_model_is_a_predictor_too(images):
    predictor = keras_predictor(load_model(), Calibration(2.0), {"name": "mine"})
    assert np.array_equal(predictor.predict(images), load_predictor().predict(images))
    found = predictor.prediction("a.jpg", 0.9)
    assert predictor.size == 128 and found == Prediction("a.jpg", 0.9, found.confidence, "unsure")
    assert found.confidence == pytest.approx(0.75)


# --- calibration ------------------------------------------------------------------------------


def test_the_temperature_is_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-logits))
    overconfident = 1 / (
        1 + np.exp(-2.5 * logits)
    )  # as if its logits were two and a half times too large
    found = fit_temperature(labels, overconfident)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    calibrated = calibrate(overconfident, found.temperature)
    np.testing.assert_allclose(calibrated, 1 / (1 + np.exp(-logits)), atol=0.02)


def test_unsure_is_below_the_stated_confidence_and_never_swaps_the_classes():
    calibration = Calibration(temperature=2.0, unsure_below=0.8)
    assert [calibration.label(p) for p in (0.0, 0.3, 0.5, 0.7, 1.0)] == [
        "cat",
        "unsure",
        "unsure",
        "unsure",
        "dog",
    ]
    assert (
        calibration.confidence(0.9) == pytest.approx(0.75) == calibration.confidence(0.1)
    )  # 9 to 1 becomes 3 to 1
    assert Calibration(2.0, 0.5).label(0.49) == "cat" and Calibration(2.0, 0.5).label(0.5) == "dog"
    split = selective_accuracy([1, 1, 0, 0], [1.0, 0.4, 0.6, 0.0], calibration)
    assert split == {"unsure": 0.5, "accuracy_confident": 1.0, "accuracy_unsure": 0.0}
