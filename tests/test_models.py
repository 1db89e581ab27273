"""Which model a name means: the included ones, and runs of one's own, which never replace them."""

import json
import shutil

import numpy as np
import pytest

from catsdogs import cli as command_line
from catsdogs import files, paths
from catsdogs.data.decode import decode
from catsdogs.serving import app, export, models
from catsdogs.serving.models import ModelError
from catsdogs.serving.predictor import load_model, load_predictor


@pytest.fixture(scope="module")
def photos(synthetic_data):
    return sorted((synthetic_data / "PetImages").glob("*/*.jpg"))[::12]


@pytest.fixture(scope="module")
def images(photos):
    return np.stack([decode(photo, 128) for photo in photos])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a run of one's own, ``mine``: the included network, its last layer zeroed."""
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    model = load_model()
    model.layers[-1].set_weights([0 * weight for weight in model.layers[-1].get_weights()])
    model.save(folder / "model.keras")
    record = json.loads((paths.model_folder("two-conv") / "record.json").read_text())
    record |= {"name": "mine", "model_sha256": files.sha256(folder / "model.keras")}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_a_name_or_a_folder_is_a_model_and_the_default_is_included(own, images):
    assert models.find_model() == paths.included() / "two-conv" / "model.keras"
    assert models.where(models.find_model()) == "two-conv, included"
    for given in ("mine", own, str(own / "model.keras")):
        found = models.find_model(given)
        assert found == own / "model.keras" and models.where(found) == "mine, a run of your own"
        predictor = load_predictor(given)
        assert predictor.facts["name"] == "mine" and (predictor.predict(images) == 0.5).all()
    assert load_predictor().predict(images).std() > 0.05
    assert models.find_model("two-conv", (".onnx",)).name == "model.onnx"


@pytest.mark.parametrize(
    "given, said",
    [
        ("nobody", "no model nobody: expected one of mine, .*two-conv"),
        ("mine/deeper", "no model mine/deeper: expected one of"),
        ("../mine", "no model ../mine: expected one of"),
        ("compare-residual", "has no model.keras, model.onnx or model.tflite"),
        ("~/none.onnx", "no such file"),
    ],
)
def test_a_model_that_is_nowhere_is_named(own, given, said):
    with pytest.raises(ModelError, match=said):
        models.find_model(given)


def test_predict_says_which_model_it_took_and_whether_that_has_seen_photos(own, photos, capsys):
    assert command_line.main(["predict", str(photos[0])]) == 0
    assert "model: two-conv, included\n" in capsys.readouterr().err
    record = json.loads((own / "record.json").read_text())
    record["data"]["source"] = "synthetic"
    (own / "record.json").write_text(json.dumps(record))
    assert command_line.main(["predict", "--model", "mine", str(photos[0])]) == 0
    said = capsys.readouterr()
    assert "model: mine, a run of your own\n" in said.err and "unsure" in said.out
    assert "trained on the synthetic sample" in said.err


def test_formats_of_one_model_cannot_disagree(own, images):
    shutil.copy(paths.included() / "two-conv" / "model.onnx", own)
    with pytest.raises(ModelError, match=r"model.onnx is not the model that record.json .* export"):
        load_predictor(own / "model.onnx")
    (own / "model.onnx").unlink()
    path = export.onnx_beside(own / "model.keras")
    assert (load_predictor(path).predict(images) == 0.5).all()
    # Calibrated after it was exported, it has the new calibration.
    record = json.loads((own / "record.json").read_text())
    record["calibration"] |= {"temperature": 2.5}
    (own / "record.json").write_text(json.dumps(record))
    assert load_predictor(path).calibration.temperature == 2.5
    with pytest.raises(ModelError, match="is not an .onnx file, which the service needs"):
        export.onnx_beside(own / "model.keras")


def test_exports_never_replace_an_included_model(own, capsys):
    included = paths.included() / "two-conv"
    before = {path.name: path.read_bytes() for path in included.iterdir()}
    given = ["export", "--model", "mine", "--output", str(included)]
    assert command_line.main(given) == 2
    assert (
        "models/two-conv is an included model, which is never replaced" in capsys.readouterr().err
    )
    assert {path.name: path.read_bytes() for path in included.iterdir()} == before


def test_the_service_takes_a_run_of_ones_own_and_exports_it_first(own, monkeypatch):
    served = []
    monkeypatch.setattr(
        app, "serve", lambda host, port, models, origins: served.extend(models) or 0
    )
    assert command_line.main(["serve", "--model", "mine"]) == 0
    assert command_line.main(["serve", "--model", "mine"]) == 0
    assert command_line.main(["serve"]) == 0
    assert served == [*2 * [own / "model.onnx"], paths.included() / "two-conv" / "model.onnx"]
    served.clear()
    assert command_line.main(["serve", "--model", "two-conv", "--model", "mine"]) == 0
    assert served == [paths.included() / "two-conv" / "model.onnx", own / "model.onnx"]
    assert command_line.main(["serve", "--model", "nobody"]) == 2
