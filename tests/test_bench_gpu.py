"""The benchmark for GPUs runs to its table, at tiny sizes on this processor."""

import importlib.util
import json

import pytest

from tools import bench_gpu

INSTALLED = [name for name in bench_gpu.BACKENDS if importlib.util.find_spec(name)]


@pytest.mark.skipif(not INSTALLED, reason="neither JAX nor PyTorch is installed")
def test_it_measures_every_backend_that_is_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CATSDOGS_DATA", str(tmp_path / "no photos"))
    assert bench_gpu.main(["two_conv", "--size", "tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench-gpu.json").read_text())
    assert list(found["on"]) == INSTALLED and found["size"] == "tiny"
    assert {row["backend"] for row in found["rows"]} == set(INSTALLED)
    assert all(row["value"] > 0 and row["unit"] == "s" for row in found["rows"])
    # The photos are random here, so no accuracy is claimed.
    assert not any("accuracy" in row["what"] or "%" in row["what"] for row in found["rows"])
    assert "| measurement | JAX | PyTorch |" in capsys.readouterr().out


def test_the_table_has_a_column_per_backend_and_says_what_was_never_reached():
    rows = [
        {"backend": "jax", "what": "an epoch", "value": 1.23456, "unit": "s"},
        {"backend": "torch", "what": "an epoch", "value": 2.0, "unit": "s"},
        {"backend": "torch", "what": "79.78%", "value": None, "unit": "s"},
    ]
    assert bench_gpu.table(rows).splitlines()[2:] == [
        "| an epoch | 1.235 s | 2 s |",
        "| 79.78% | – | not reached |",
    ]


def test_an_unknown_measurement_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench_gpu.main(["speed"])
    assert "speed: choose from two_conv, time_to_accuracy" in capsys.readouterr().err
