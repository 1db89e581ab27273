"""Saved models load in the oldest Keras that is allowed, in one in between, and in Keras 2."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from catsdogs import paths
from catsdogs.backend import keras
from catsdogs.networks import cnn, portable
from catsdogs.serving.predictor import load_predictor
from catsdogs.training import fit

layers = keras.layers

#: The programs that load the saved models: the package, its version and the formats that it reads.
PROGRAMS = {
    "oldest": ("keras", portable.OLDEST_KERAS, ["keras", "h5"]),
    "in between": ("keras", "3.12.1", ["keras", "h5"]),
    "Keras 2": ("tf_keras", "2.18.0", ["h5"]),
}
#: What each of them runs: it calls every model of the folder that it is given.
LOAD = """
import importlib, json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
keras = importlib.import_module(sys.argv[1])
if keras.__version__ != sys.argv[2]:
    raise SystemExit(f"this is {keras.__version__}")
for ending in json.loads(sys.argv[4]):
    for path in sorted(Path(sys.argv[3]).glob(f"*.{ending}")):
        model = keras.models.load_model(path, compile=False)
        inputs = np.load(path.with_suffix(".inputs.npy"))
        np.save(f"{path}.{sys.argv[2]}.npy", model(inputs, training=False))
if len(sys.argv) > 5:
    sys.path.append(sys.argv[5])
    from tools.keras_arguments import arguments
    Path(sys.argv[3], "arguments.json").write_text(json.dumps(arguments()))
"""


def various():
    """Layers of other networks, of which newer versions of Keras have extended many."""
    images = keras.Input((16, 16, 3))
    x = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(images / 255)
    x = layers.RandomFlip("horizontal")(x)
    x = layers.Resizing(12, 12)(x)
    x = layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")(x)
    x = layers.LayerNormalization()(layers.SeparableConv2D(4, 3, pointwise_regularizer="l2")(x))
    x = layers.Conv2DTranspose(4, 3, activation="relu")(x)
    x = layers.Reshape((-1, 4))(x)
    x = layers.MultiHeadAttention(2, 2)(x, x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(images, keras.Sequential([layers.Dense(2), layers.Dense(1)])(x))


def networks():
    head = [keras.Input((7,)), layers.Dense(1, activation="sigmoid")]
    small = {"filters": (4, 8), "pool_sizes": (2, 2), "dense_units": 8}
    return {
        "baseline": cnn.baseline(16),
        "two_conv": cnn.two_conv(32, **small),
        "residual": cnn.residual(4, filters=(4, 8), blocks=(1, 1)),
        "head": keras.Sequential(head),
        "various": various(),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with networks, among them the included ones, their inputs and predictions here."""
    folder, rng = tmp_path_factory.mktemp("saved"), np.random.default_rng(0)

    def predict(name, model):
        shape = [side or 24 for side in model.input_shape[1:]]
        inputs = rng.integers(0, 256, (3, *shape)).astype("float32")
        np.save(folder / f"{name}.inputs.npy", inputs)
        np.save(folder / f"{name}.expected.npy", model(inputs, training=False))

    keras.utils.set_random_seed(0)
    for name, model in networks().items():
        for weight in model.weights:
            if not weight.path.endswith("variance"):
                weight.assign(rng.normal(0, 0.2, weight.shape))
        predict(name, model)
        portable.save(model, folder / f"{name}.keras")
        if name in ("two_conv", "residual"):
            portable.save(model, folder / f"{name}.h5")
    for file in paths.included().glob("*/model.[kh]*"):
        shutil.copy(file, folder / f"{file.parent.name}{file.suffix}")
        if file.suffix == ".keras":
            predict(file.parent.name, keras.saving.load_model(file))
    return folder


def installed(package, version):
    """A folder with this version of `package`, and nothing that it depends on."""
    folder = paths.PROJECT / "build" / "packages" / f"{package}-{version}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            command = f"-m pip install -q --no-deps --retries 0 --target {partial}/it"
            run = subprocess.run(
                [sys.executable, *command.split(), f"{package}=={version}"],
                capture_output=True,
                text=True,
            )
            if run.returncode:
                return None
            os.rename(f"{partial}/it", folder)
    return folder


@pytest.fixture(scope="module")
def loaded(saved):
    """What each program printed and its exit status, or None where it cannot be installed."""
    found = {}
    for name, (package, version, endings) in PROGRAMS.items():
        folder = installed(package, version)
        found[name] = folder and subprocess.Popen(
            [sys.executable, "-c", LOAD, package, version, saved, json.dumps(endings)]
            + ([paths.PROJECT] if name == "oldest" else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
    return {name: run and (run.communicate()[0], run.returncode) for name, run in found.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_older_programs_predict_the_same(saved, loaded, program):
    package, version, endings = PROGRAMS[program]
    if loaded[program] is None:
        pytest.skip(f"{package} {version} cannot be installed here")
    printed, status = loaded[program]
    assert status == 0, printed[-2000:]
    for ending in endings:
        files = sorted(saved.glob(f"*.{ending}"))
        assert len(files) == {"keras": 7, "h5": 3}[ending]
        for path in files:
            given = np.load(f"{path}.{version}.npy")
            expected = np.load(path.with_suffix(".expected.npy"))
            np.testing.assert_allclose(given, expected, atol=2e-6, err_msg=path.name)


def test_the_table_of_arguments_is_that_of_the_oldest_keras(saved, loaded):
    if loaded["oldest"] is None:
        pytest.skip("the oldest Keras cannot be installed here")
    table = Path(portable.__file__).with_name("oldest_keras.json")
    assert json.loads(table.read_text()) == json.loads((saved / "arguments.json").read_text())
    allowed = (paths.PROJECT / "requirements.txt").read_text()
    assert f"keras>={portable.OLDEST_KERAS.removesuffix('.0')}," in allowed


def config(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


def test_an_argument_that_a_model_uses_is_kept(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(renorm=True), layers.Dense(1)]
    )
    portable.save(model, tmp_path / "new.keras")
    written = config(tmp_path / "new.keras")
    assert '"renorm": true' in written and "quantization_config" not in written
    assert keras.saving.load_model(tmp_path / "new.keras").layers[1].renorm


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_file_is_rewritten_with_the_same_weights(saved, tmp_path, ending):
    model = keras.saving.load_model(saved / f"two_conv.{ending}", compile=False)
    path = tmp_path / f"mine.{ending}"
    model.save(path)
    portable.rewrite(path)
    again = keras.saving.load_model(path, compile=False)
    for given, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        assert given.tobytes() == expected.tobytes()
    if ending == "keras":
        assert "quantization_config" not in config(path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_saved_model_refuses_photos_of_a_different_size(saved):
    """The pooling would round the two pixels off."""
    model = keras.saving.load_model(saved / "two_conv.keras")
    with pytest.raises(ValueError, match=r"expected shape=\(None, 32, 32, 3\)"):
        model.predict(np.zeros((2, 33, 33, 3)), verbose=0)


def test_saving_advises_against_no_format(tmp_path, caplog):
    """Notebooks would show the advice in red, below a run that succeeded."""
    model = cnn.baseline(16)
    portable.save(model, tmp_path / "mine.h5")
    assert (tmp_path / "mine.h5").exists() and not caplog.records
    model.save(tmp_path / "mine.h5")
    assert "HDF5" in caplog.text  # others' advice is shown, as before


def test_a_network_that_is_trained_on_crops_takes_one_size_once_it_is_trained(
    tmp_path, monkeypatch
):
    """So that the command line can classify photos with it, as with any other."""
    done = SimpleNamespace(history={}, best_epoch=1, seconds=0.0, interrupted=False)
    monkeypatch.setattr(fit, "fit", lambda *_, **__: done)
    described = {"split": "full", "fingerprint": "0"}
    photos = SimpleNamespace(train=None, val=None, describe=lambda: described)
    small = {"STEM_FILTERS": 2, "FILTERS": (2, 4), "BLOCKS": (1, 1), "IMAGE_SIZE": 20}
    p = fit.RESIDUAL | small | {"CROP_SIZE": 16, "SEED": 0, "PRECISION": "float32"}
    model = fit.train(p, photos).model
    assert model.input_shape == (None, 20, 20, 3)
    portable.save(model, tmp_path / "mine.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    np.testing.assert_allclose(
        load_predictor(tmp_path / "mine.keras").predict(images),
        model.predict(images, verbose=0)[:, 0],
        atol=1e-6,
    )
