"""The benchmark counts, compares and reports what it says."""

import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from catsdogs.analysis import plots
from catsdogs.networks import cnn
from catsdogs.training import fit
from tools import bench, report


def test_operations_are_counted_by_hand():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.MaxPooling2D(2),
            layers.Conv2D(5, 2, padding="same"),
            layers.Flatten(),
            layers.Dense(7),
        ]
    )
    first, second, dense = 6 * 6 * 3 * 3 * 3 * 4, 3 * 3 * 2 * 2 * 4 * 5, 3 * 3 * 5 * 7
    assert bench.training_flops(model) == 2 * (2 * first + 3 * second + 3 * dense)


def test_it_measures_the_network_of_notebook_02():
    assert set(bench.SPRINT) <= set(fit.TWO_CONV)
    model = cnn.build(fit.TWO_CONV | bench.SPRINT)
    assert sum(isinstance(layer, layers.Conv2D) for layer in model.layers) == 2


def test_a_row_says_how_many_times_better_ours_is():
    slower = bench.row("an epoch", "s", 2.0, 6.0, "theirs", 3)
    faster = bench.row("reading", "photos/s", 100.0, 50.0, "theirs", higher_is_better=True)
    alone = bench.row("an epoch", "s", 2.0, None, "nobody", backend="jax")
    assert (slower["speedup"], faster["speedup"], alone["speedup"]) == (3, 2, None)
    assert "| an epoch | tensorflow | 2 s | 6 s | **3×** | 3× | theirs |" in report.speed_table(
        [slower, faster, alone]
    )
    rows = [line | {"measurement": "epoch"} for line in (slower, faster, alone)]
    figure = plots.speedups(rows, title="here")
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [3, 2]
    plots.close(figure)


def test_the_first_round_does_not_count_and_rounds_alternate():
    calls = []
    bench.alternate(lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=2)
    assert calls == ["ours", "peer"] * 3
    assert bench.alternate(lambda: 7.0, lambda: None, rounds=1)[0] == 7.0


def test_an_epoch_is_timed_without_what_comes_after_it():
    class Slow(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            time.sleep(1)

    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    seconds = bench.epoch_seconds(
        _WithCallback(model, Slow()), np.zeros((8, 2)), y=np.zeros((8, 1))
    )
    assert 0 < seconds < 1


class _WithCallback:
    """A model that is fitted with one callback more."""

    def __init__(self, model, callback):
        self.model, self.callback = model, callback

    def fit(self, *arguments, callbacks, **options):
        return self.model.fit(*arguments, callbacks=[*callbacks, self.callback], **options)


def test_a_run_counts_until_the_target_was_reached_twice_in_a_row():
    accuracies = iter([0.7, 0.81, 0.79, 0.80, 0.82, 0.9])
    clock = bench.stopwatch(lambda model: next(accuracies))
    clock.set_model(SimpleNamespace(stop_training=False))
    for epoch in range(5):
        clock.on_epoch_end(epoch)
        assert (clock.reached is not None) == (epoch == 4) == clock.model.stop_training
    assert clock.reached == clock.times[4] and len(clock.accuracies) == 5


def test_what_is_measured_anew_replaces_its_rows_only():
    facts = {"machine": "a", "photos": 3, "synthetic": False, "versions": {}}
    before = facts | {
        "rows": [
            {"measurement": name, "ours": 1} for name in ("sprint", "epoch", "epoch", "memory")
        ]
    }
    found = bench.merged(before, facts | {"rows": [{"measurement": "epoch", "ours": 2}]})
    assert [(line["measurement"], line["ours"]) for line in found["rows"]] == [
        ("sprint", 1),
        ("epoch", 2),
        ("memory", 1),
    ]
    with pytest.raises(SystemExit, match="another machine"):
        bench.merged(before, facts | {"machine": "b", "rows": []})


def test_one_measurement_end_to_end_on_synthetic_pictures(synthetic):
    found = bench.measure("reading")
    assert found["ours"] > 0 and found["baseline"] > 0
