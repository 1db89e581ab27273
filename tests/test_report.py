"""Published numbers are the run records', and the included model is its record's."""

import json
import re
import subprocess

import keras
import numpy as np
import pytest

from catsdogs import files, paths
from catsdogs.analysis import compare
from catsdogs.training import records
from tools import report

INCLUDED = paths.PROJECT / "models"


def test_documents_and_figures_agree_with_the_records():
    assert report.differences() == []


def test_a_changed_number_is_noticed(monkeypatch, tmp_path):
    text = (paths.PROJECT / "README.md").read_text()
    accuracy = f"{records.read(report.MODEL)['metrics']['test']['accuracy']['value']:.1%}"
    assert f"**{accuracy} test accuracy, 95% CI " in text
    changed = tmp_path / "README.md"
    changed.write_text(text.replace(accuracy, "99.9%"))
    monkeypatch.setattr(report, "_documents", lambda: [changed])
    monkeypatch.setattr(report, "_filled", lambda document: text)
    assert report.differences() == ["README.md: the numbers differ from the run records"]
    assert report.main(check=True) == 1


def test_the_included_model_keeps_its_contract():
    record, model = records.read(report.MODEL), records.load_model(report.MODEL)
    size = record["hyperparameters"]["IMAGE_SIZE"]
    assert model.input_shape == (None, size, size, 3) and model.output_shape == (None, 1)
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    found = model.predict(images, verbose=0)
    assert found.min() >= 0 and found.max() <= 1
    older = keras.saving.load_model(INCLUDED / report.MODEL / "model.h5", compile=False)
    np.testing.assert_allclose(older.predict(images, verbose=0), found, atol=1e-6)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 2
    first = next(one for one in model.layers if not isinstance(one, keras.layers.InputLayer))
    assert isinstance(first, keras.layers.Rescaling)
    assert model.layers[-1].activation is keras.activations.sigmoid


def test_the_included_records_are_of_real_photos_and_reach_the_least_accuracy():
    for name, least in (
        (report.MODEL, 0.92),
        (report.BASELINE, 0.79),
        *((name, 0.87) for name in report.OURS_8000),
    ):
        record = json.loads((INCLUDED / name / "record.json").read_text())
        assert record["data"]["source"] == "asirra" and record["epochs"] == 25
        confusion = np.array(record["metrics"]["test"]["confusion"])
        assert confusion.sum() == record["data"]["photos"]["test"]
        accuracy = record["metrics"]["test"]["accuracy"]
        assert (
            accuracy["value"] == pytest.approx(confusion.trace() / confusion.sum())
            and accuracy["value"] >= least
        )
        assert record["best_epoch"] == (
            25 if name == report.BASELINE else int(np.argmin(record["history"]["val_loss"])) + 1
        )


def test_the_network_in_pytorch_is_as_good_as_the_one_in_keras():
    ours, theirs = (
        json.loads((INCLUDED / name / "record.json").read_text())
        for name in ("pytorch", report.MODEL)
    )
    assert (
        ours["data"] == theirs["data"]
        and ours["parameters"] == theirs["parameters"]
        and ours["epochs"] == 25
    )
    for name, value in ours["hyperparameters"].items():  # the precision may differ
        assert name == "PRECISION" or theirs["hyperparameters"][name] == value
    assert (
        ours["same_as_keras"]["photos"] > 2000
        and ours["same_as_keras"]["largest_difference"] < 1e-4
    )
    this, other = (record["metrics"]["test"]["accuracy"] for record in (ours, theirs))
    assert (
        other["low"] <= this["value"] <= other["high"]
        and this["low"] <= other["value"] <= this["high"]
    )


def test_the_compared_networks_show_what_the_documents_claim():
    found, photos = report._compared(), records.read(report.MODEL)["data"]
    tested = {key: record["metrics"]["test"]["accuracy"] for key, record in found.items()}
    assert {
        "baseline",
        "two_conv",
        "softmax",
        "no_augmentation",
        "strong_augmentation",
        "residual",
    } <= set(found)
    for key, record in found.items():
        assert (
            record["data"] == photos
            and record["metrics"]["test"]["photos"] == photos["photos"]["test"]
        ), key
        confusion = np.array(record["metrics"]["test"]["confusion"])
        assert tested[key]["value"] == pytest.approx(confusion.trace() / confusion.sum())
        last = key == "baseline"  # which keeps its last epoch
        assert record["best_epoch"] == (
            record["epochs"] if last else int(np.argmin(record["history"]["val_loss"])) + 1
        )
    # Two softmax units are as good as one sigmoid; data augmentation helps, and so does depth.
    assert tested["two_conv"]["low"] <= tested["softmax"]["value"] <= tested["two_conv"]["high"]
    assert (
        tested["baseline"]["high"]
        < tested["two_conv"]["low"]
        < tested["two_conv"]["high"]
        < tested["residual"]["low"]
    )
    assert tested["no_augmentation"]["value"] < tested["two_conv"]["value"]
    assert found["residual"]["seconds"] < 3600


def test_a_measure_may_have_no_interval():
    measures = {key: {"value": 0.5, "low": 0.4, "high": 0.6} for key in report.MEASURES}
    measures["calibration_error"] = {"value": 0.0123}
    table = report.measures_table({"val": measures, "test": measures | {"brier": 0.25}})
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert lines["accuracy"].count("0.5000 (0.4000 to 0.6000)") == 2
    for label, value in (("expected calibration error (ECE)", "0.0123"), ("Brier score", "0.2500")):
        assert lines[label].split("|")[3].strip() == value


def test_a_chart_of_a_different_benchmark_is_noticed(monkeypatch):
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: sha256(path)[::-1])
    assert report.differences() == ["bench.png: drawn from a different record"]


def test_an_unknown_block_is_named(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("<!-- from the run record: no_such -->1<!-- end -->")
    with pytest.raises(ValueError, match="'no_such': expected one of .*summary"):
        report._filled(document)


def test_targets_that_are_missed_are_said_to_be():
    bench, serve = report.read_result("bench"), report.read_result("serve")
    missed = report.targets_table(bench, serve).count("**no**")
    for row in bench["rows"]:
        row["speedup"] = row["target"]
    assert 0 < report.targets_table(bench, serve).count("**no**") < missed
    serve["ready"]["ours"] = 9.0
    assert re.search(
        r"\| time to start .*\| 9 s +\| \*\*no\*\* \|", report.targets_table(bench, serve)
    )


def test_what_a_reader_trains_besides_is_not_published(tmp_path, monkeypatch):
    for name in ("my-residual", "my-seed-7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text("{}")
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    found = report._compared()
    assert "seed_7" not in found and found["residual"]["name"] == "compare-residual"
    assert found["two_conv"]["name"] == report.MODEL


def test_fine_tuning_improves_on_the_head_it_was_averaged_with():
    tuned, head = (records.read(name) for name in (report.FINE_TUNED, report.PRETRAINED))
    assert (
        tuned["data"] == head["data"]
        and tuned["hyperparameters"]["NETWORKS"] == head["hyperparameters"]["NETWORKS"]
    )
    for subset in ("val", "test"):  # chosen on the first, confirmed on the second
        assert (
            tuned["metrics"][subset]["log_loss"]["value"]
            < head["metrics"][subset]["log_loss"]["value"]
        )


def test_published_numbers_are_marked_as_such():
    rows = compare.network_rows(report._compared())
    published = [row for row in rows if row["source"] != "measured here"]
    assert len(published) == len(compare.PUBLISHED_NETWORKS) and all(
        row["source"].startswith("published, on ") for row in published
    )
    assert all(row["training time"] == row["parameters"] == "–" for row in published)
    keras_io = next(row for row in published if row["network"].startswith("keras.io"))
    assert (
        keras_io["validation accuracy"] == "94% to 96%"
        and keras_io["test accuracy (95% CI)"] == "–"
    )
    assert (
        next(row for row in published if "Kaggle" in row["network"])["test accuracy (95% CI)"]
        == "97.64%"
    )


def test_no_photo_is_tracked():
    if not (paths.PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=paths.PROJECT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [
        name
        for name in tracked
        if name.endswith((".jpg", ".jpeg", ".npy", ".npz", ".zip"))
        or name.startswith("data/")
        and name != "data/README.md"
    ]
    assert {name for name in tracked if name.endswith(".png")} <= {
        "models/two-conv/curves.png",
        "models/two-conv/confusion_matrix.png",
        "benchmarks/bench.png",
    }
