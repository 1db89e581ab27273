"""The benchmark counts, times and compares what it claims to."""

import json
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from catsdogs import files
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
    assert set(bench.FASTEST) <= set(fit.TWO_CONV)
    model = cnn.build(fit.TWO_CONV | bench.FASTEST)
    assert sum(isinstance(layer, layers.Conv2D) for layer in model.layers) == 2


def test_epochs_that_were_not_measured_are_calculated_from_those_that_were():
    times = [10.0, 13.0, 16.0]  # the first one with reading and tracing
    assert [bench.after(epochs, times) for epochs in (1, 2, 3, 4, 25)] == [10, 13, 16, 19, 82]


def test_a_row_has_the_speedup_over_the_baseline():
    time_taken = bench.row("one epoch", "s", 2.0, 6.0, "theirs", 3)
    throughput = bench.row("reading", "photos/s", 100.0, 50.0, "theirs", higher_is_better=True)
    alone = bench.row("one epoch", "s", 2.0, None, "none", backend="jax")
    slower = bench.row("one epoch", "s", 6.0, 2.0, "theirs")
    rows = [time_taken, throughput, alone, slower]
    assert [row["speedup"] for row in rows] == [3, 2, None, pytest.approx(1 / 3)]
    _, _, first, _, third, _ = report.speed_table(rows).splitlines()
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["one epoch", "TensorFlow", "2 s", "6 s", "**3×**", "3×", "theirs"]
    cells = [cell.strip() for cell in third.strip("|").split("|")]
    assert cells == ["one epoch", "JAX", "2 s", "–", "–", "–", "none"]


def test_the_chart_shows_the_speedups():
    rows = [
        bench.row("one epoch", "s", 2.0, 6.0, "theirs", 3),
        bench.row("one epoch", "s", 6.0, 3.0, "theirs"),
    ]
    rows = [row | {"measurement": "epoch"} for row in rows]
    if hasattr(plots, "speedups"):
        figure = plots.speedups(rows, title="here")
        dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert [dot.get_xdata()[0] for dot in dots] == [3, 0.5]
    else:
        figure = plots.comparison(rows, title="here")
        assert [bar.get_width() for bar in figure.axes[0].patches] == [3, 0.5]
    plots.close(figure)


def test_the_chart_is_drawn_from_the_result(tmp_path, monkeypatch):
    drawn = []
    draw = plots.speedups
    monkeypatch.setattr(
        plots, "speedups", lambda rows, *, title: drawn.extend(rows) or draw(rows, title=title)
    )
    rows = [
        bench.row("one epoch", "s", 2.0, 6.0, "theirs", 3) | {"measurement": "epoch"},
        bench.row("one epoch", "s", 2.0, None, "none") | {"measurement": "epoch"},
        bench.row("training step", "ms", 2.0, 1.0, "without") | {"measurement": "step"},
    ]
    result = tmp_path / "bench.json"
    result.write_text(json.dumps({"machine": "CPU, 2 cores", "rows": rows}))
    report.save_chart(result, tmp_path / "bench.png")
    assert [row["speedup"] for row in drawn] == [3]  # no shares or costs, which are no speedups
    with Image.open(tmp_path / "bench.png") as image:
        assert image.info["bench_sha256"] == files.sha256(result)


def test_each_row_of_the_chart_is_a_dot_at_its_speedup():
    rows = [
        bench.row("one epoch", "s", 2.0, 6.0, "theirs", 3) | {"measurement": "epoch"},
        bench.row("reading", "photos/s", 100.0, 50.0, "theirs", higher_is_better=True)
        | {"measurement": "reading"},
        bench.row("one epoch", "s", 2.0, None, "none", backend="jax") | {"measurement": "epoch"},
    ]
    figure = plots.speedups(rows, title="here")
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sorted(dot.get_xdata()[0] for dot in dots) == [2, 3]
    plots.close(figure)


def test_the_warm_up_round_does_not_count_and_rounds_alternate():
    calls = []
    bench.alternate(lambda: calls.append("ours"), lambda: calls.append("baseline"), rounds=2)
    assert calls == ["ours", "baseline"] * 3
    assert bench.alternate(lambda: 7.0, lambda: None, rounds=1)[0] == 7.0


def test_an_epoch_is_timed_without_what_comes_after_it():
    class Slow(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            time.sleep(1)

    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    started = time.perf_counter()
    seconds = bench.epoch_seconds(
        _WithCallback(model, Slow()), np.zeros((8, 2)), y=np.zeros((8, 1))
    )
    assert 0 < seconds < time.perf_counter() - started - 1


class _WithCallback:
    """A model that is fitted with one more callback."""

    def __init__(self, model, callback):
        self.model, self.callback = model, callback

    def fit(self, *arguments, callbacks, **options):
        return self.model.fit(*arguments, callbacks=[*callbacks, self.callback], **options)


def test_the_clock_stops_once_two_consecutive_epochs_reach_the_target():
    accuracies = iter([0.7, 0.81, 0.79, 0.80, 0.82, 0.9])
    clock = bench.stopwatch(lambda model: next(accuracies))
    clock.set_model(SimpleNamespace(stop_training=False))
    for epoch in range(5):
        clock.on_epoch_end(epoch)
        assert (clock.reached is not None) == (epoch == 4) == clock.model.stop_training
    assert clock.reached == clock.times[4] and len(clock.accuracies) == 5


def test_a_repeated_measurement_replaces_only_its_own_rows():
    facts = {"machine": "a", "photos": 3, "synthetic": False, "versions": {}}
    before = facts | {
        "rows": [
            {"measurement": name, "ours": 1} for name in ("reading", "epoch", "epoch", "memory")
        ]
    }
    found = bench.merged(before, facts | {"rows": [{"measurement": "epoch", "ours": 2}]})
    assert [(line["measurement"], line["ours"]) for line in found["rows"]] == [
        ("reading", 1),
        ("epoch", 2),
        ("memory", 1),
    ]
    with pytest.raises(SystemExit, match="different machine"):
        bench.merged(before, facts | {"machine": "b", "rows": []})


def test_one_measurement_end_to_end_on_the_synthetic_sample(synthetic):
    found = bench.measure("reading")
    assert found["ours"] > 0 and found["baseline"] > 0
