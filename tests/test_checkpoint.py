"""Checkpoints that are damaged or of something else; they and models on a full disk."""

import json
import os
import resource
from types import SimpleNamespace

import numpy as np
import pytest

from catsdogs import arrays, files
from catsdogs.backend import keras
from catsdogs.networks import portable
from catsdogs.training.checkpoint import Checkpoint

FACTS = {"history": {"loss": [0.5, 0.25]}, "best_epoch": 2, "seconds": 1.5}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A checkpoint whose file is that of a model with one layer after two epochs."""
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)
    checkpoint = Checkpoint("key", SimpleNamespace())
    checkpoint.set_model(model)
    checkpoint.history, checkpoint.best_epoch = dict(FACTS["history"]), FACTS["best_epoch"]
    checkpoint.seconds, checkpoint.best = FACTS["seconds"], checkpoint._weights()
    checkpoint._write()
    assert checkpoint._read()["facts"] == FACTS
    return checkpoint


def test_a_checkpoint_damaged_anywhere_is_not_used(saved, capsys):
    content = saved.path.read_bytes()
    whole = saved._read()
    for position in range(0, len(content), 40):
        saved.path.write_bytes(content[:position])
        assert saved._read() is None
        saved.path.write_bytes(content[:position] + b"\x7f" + content[position + 1 :])
        state = saved._read()  # not every byte of a zip archive means something
        for part in ("variables", "best") if state else ():
            for value, expected in zip(state[part], whole[part], strict=True):
                np.testing.assert_array_equal(value, expected)
    assert "starting from scratch" in capsys.readouterr().out


ODD = [
    [],
    7,
    "[" * 100_000,
    FACTS | {"history": {}},
    FACTS | {"history": [0.5, 0.25]},
    FACTS | {"history": {"loss": [0.5, None]}},
    FACTS | {"history": {"loss": [0.5], "val_loss": []}},
    FACTS | {"best_epoch": 3},
    FACTS | {"best_epoch": None},
    FACTS | {"seconds": "1.5"},
    {"history": FACTS["history"]},
]


@pytest.mark.parametrize("facts", ODD, ids=lambda facts: str(facts)[:60])
def test_a_checkpoint_of_odd_content_is_as_good_as_none(saved, capsys, facts):
    found = arrays.read(saved.path)
    text = facts if isinstance(facts, str) else json.dumps(facts)
    files.write(saved.path, arrays.packed(**found | {"facts": np.array(text)}))
    assert saved._read() is None
    assert capsys.readouterr().out.rstrip().endswith("starting from scratch.")


@pytest.mark.parametrize("name", ["variable0", "variable3", "best1"])
@pytest.mark.parametrize("value", [np.zeros((5, 1), "float32"), np.zeros((3, 1)), None])
def test_arrays_of_another_network_are_not_used(saved, capsys, name, value):
    found = arrays.read(saved.path)
    del found[name]
    if value is not None:
        found[name] = value
    files.write(saved.path, arrays.packed(**found))
    assert saved._read() is None and "starting from scratch" in capsys.readouterr().out


def test_where_no_checkpoint_can_be_written_training_goes_on(saved, monkeypatch, capsys):
    before = saved.path.read_bytes()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    saved.history = {"loss": [0.5, 0.25, 0.125]}
    saved._write()
    said = capsys.readouterr().out
    assert "could not be written (No space left on device). Training goes on" in said
    assert saved.path.read_bytes() == before and len(list(saved.path.parent.iterdir())) == 1


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_model_that_does_not_fit_is_said_before_any_of_it_is_written(tmp_path, suffix):
    """Half of an HDF5 file crashed Python at its end."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(files.DiskFullError, match="could not be written"):
            portable.save(model, tmp_path / f"model.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
