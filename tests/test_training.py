"""What goes around `model.fit`: augmentation, the order of photos, resuming after a kill,
saving."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from keras import layers, ops

from catsdogs import backend, paths
from catsdogs.analysis import gradcam
from catsdogs.data import dataset
from catsdogs.data.dataset import Dataset, Photos
from catsdogs.networks import augment, cnn, whitening
from catsdogs.text import duration
from catsdogs.training import control, fit, records
from catsdogs.training.batches import Batches
from catsdogs.training.checkpoint import Checkpoint, EMAWeights, run_key
from catsdogs.training.live import LiveCurves, TimeLeft, estimate_seconds


def some_photos(count=48, size=16):
    """Bright and dark squares: easily told apart, so that losses move."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.uint8)
    images = rng.integers(0, 130, (count, size, size, 3)) + 100 * labels[:, None, None, None]
    return Photos(images.astype(np.uint8), labels, [f"{n}.jpg" for n in range(count)])


def small_model(size=16):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


# --- augmentation ---------------------------------------------------------------------------------


def test_augmentation_does_nothing_outside_training():
    images = some_photos().images
    layer = augment.augmentation("strong")
    assert np.array_equal(ops.convert_to_numpy(layer(images, training=False)), images)


def test_with_nothing_else_photos_are_only_mirrored():
    images = some_photos().images.astype("float32")
    views = ops.convert_to_numpy(augment.RandomAugmentation(seed=3)(images, training=True))
    straight = abs(views - images).max((1, 2, 3)) < 1e-3
    mirrored = abs(views - images[:, :, ::-1]).max((1, 2, 3)) < 1e-3
    assert (straight ^ mirrored).all() and 10 < mirrored.sum() < 38


def test_shifting_moves_by_whole_pixels_and_repeats_the_edges():
    # Each pixel says where it is, so the shift can be read off the view.
    x, y = np.meshgrid(np.arange(64.0), np.arange(64.0))
    image = np.stack([x, y, np.zeros_like(x)], -1)[None].repeat(400, 0).astype("float32")
    views = ops.convert_to_numpy(
        augment.RandomAugmentation(shift=1 / 16, flip=False)(image, training=True)
    )
    assert np.array_equal(views, views.round())  # nothing was interpolated
    right, down = views[:, 32, 32, 0] - 32, views[:, 32, 32, 1] - 32
    for moved in (right, down):
        assert set(moved) == set(range(-4, 5)) and abs(moved.mean()) < 0.6
    assert abs(np.corrcoef(right, down)[0, 1]) < 0.2  # the two directions are drawn apart
    expected = np.clip(np.arange(64) + right[:, None], 0, 63)
    assert np.array_equal(views[:, 10, :, 0], expected)


def test_a_window_shows_a_part_of_the_photo_larger():
    # Each pixel says where it is, so the window can be read off the view.
    x, y = np.meshgrid(np.arange(64.0), np.arange(64.0))
    image = np.stack([x, y, np.zeros_like(x)], -1)[None].repeat(200, 0).astype("float32")
    views = ops.convert_to_numpy(
        augment.RandomAugmentation(zoom=(0.5, 0.5), flip=False)(image, training=True)
    )
    steps = np.diff(views[:, 32, 8:56, 0], axis=1)
    assert np.allclose(steps, 0.5, atol=1e-3)  # half as many pixels across the same width
    left = views[:, 32, 0, 0]
    assert left.min() >= 0 and 28 < left.max() <= 32 and left.min() < 4 and 12 < left.mean() < 20


def test_zooming_out_repeats_the_edges_and_stays_in_range():
    images = some_photos().images
    views = ops.convert_to_numpy(
        augment.RandomAugmentation(zoom=(1.3, 1.5), lighting=0.5)(images, training=True)
    )
    assert (
        views.shape == images.shape
        and views.min() >= 0
        and views.max() <= 255
        and np.isfinite(views).all()
    )


def test_views_may_be_smaller_than_photos_and_show_a_part_of_them():
    x, y = np.meshgrid(np.arange(80.0), np.arange(80.0))
    image = np.stack([x, y, np.zeros_like(x)], -1)[None].repeat(100, 0).astype("float32")
    layer = augment.RandomAugmentation(zoom=(0.6, 0.8), flip=False, size=64)
    views = ops.convert_to_numpy(layer(image, training=True))
    assert views.shape == (100, 64, 64, 3) == layer.compute_output_shape(image.shape)
    steps = np.diff(
        views[:, 32, 4:60, 0], axis=1
    )  # pixels of the photo from one pixel of the view to the next
    assert np.allclose(steps, steps[:, :1], atol=1e-3)
    assert 0.6 * 80 / 64 - 1e-3 <= steps.min() < 0.8 and 0.95 < steps.max() <= 0.8 * 80 / 64 + 1e-3
    assert ops.convert_to_numpy(layer(image, training=False)).shape == image.shape
    assert augment.augmentation("none", size=64)(image, training=True).shape == (100, 64, 64, 3)


def test_a_window_is_placed_as_finely_in_bfloat16():
    stripes = np.zeros((50, 160, 160, 3), "float32")
    stripes[:, :, ::2] = 200  # so that a pixel read half a pixel off is off by half of this
    seen = [
        ops.convert_to_numpy(
            ops.cast(
                augment.RandomAugmentation(zoom=(0.7, 0.9), flip=False, size=128, dtype=dtype)(
                    stripes, training=True
                ),
                "float32",
            )
        )
        for dtype in ("float32", "mixed_bfloat16")
    ]
    assert abs(seen[0] - seen[1]).max() < 3


def test_light_and_color_change_as_they_say():
    flat = np.full((500, 4, 4, 3), 120, "float32")
    views = ops.convert_to_numpy(
        augment.RandomAugmentation(lighting=0.2, flip=False)(flat, training=True)
    )
    assert np.allclose(
        views, views[:, :1, :1, :1], atol=1e-2
    )  # brightness alone is left: all is one grey
    moved = views[:, 0, 0, 0] - 120
    assert -51.1 < moved.min() < -45 and 45 < moved.max() < 51.1 and abs(moved.mean()) < 5

    gray = (
        ops.convert_to_numpy(
            augment.RandomAugmentation(color=0.2, flip=False)(flat, training=True)
        )[:, 0, 0]
        / 120
    )
    assert 0.79 < gray.min() < 0.83 and 1.17 < gray.max() < 1.21
    assert (
        abs(np.corrcoef(gray.T)[np.triu_indices(3, 1)]).max() < 0.15
    )  # red, green and blue are drawn apart

    two = np.full((500, 2, 2, 3), 100, "float32")
    two[:, 1] = 140
    views = ops.convert_to_numpy(
        augment.RandomAugmentation(lighting=0.2, flip=False)(two, training=True)
    )
    contrast = (views[:, 1, 0, 0] - views[:, 0, 0, 0]) / 40
    assert 0.79 < contrast.min() < 0.83 and 1.17 < contrast.max() < 1.21
    middle = (
        views[:, 1, 0, 0] + views[:, 0, 0, 0]
    ) / 2 - 120  # contrast leaves the mean where it was
    assert abs(middle).max() < 51.1 and abs(np.corrcoef(middle, contrast)[0, 1]) < 0.15

    red = np.zeros((500, 2, 2, 3), "float32")
    red[..., 0] = 90
    views = ops.convert_to_numpy(
        augment.RandomAugmentation(color=0.2, flip=False)(red, training=True)
    )[:, 0, 0]
    # A color's distance from grey, 30 here, is scaled by 0.6 to 1.4; then each channel by 0.8 to
    # 1.2; below 0 is cut.
    assert views[:, 1].min() == 0 and 10 < views[:, 1].max() <= 30 * 0.4 * 1.2 + 1e-3
    assert 48 * 0.8 <= views[:, 0].min() and views[:, 0].max() <= (30 + 60 * 1.4) * 1.2 + 1e-3


def test_views_differ_between_photos_and_between_calls():
    images = some_photos().images[:1].repeat(8, 0)
    layer = augment.augmentation("light", seed=5)
    first, second = (ops.convert_to_numpy(layer(images, training=True)) for _ in range(2))
    assert abs(first[0] - first[1]).max() > 1 and abs(first - second).max() > 1
    again = ops.convert_to_numpy(augment.augmentation("light", seed=5)(images, training=True))
    assert np.allclose(first, again)


def test_an_unknown_strength_says_which_there_are():
    with pytest.raises(ValueError, match="none, light, strong, crop, wide crop, baseline"):
        augment.augmentation("heavy")


# --- photos left out, and runs found again --------------------------------------------------------


def test_training_photos_can_be_left_out_and_others_cannot(synthetic_data, monkeypatch):
    monkeypatch.setenv("CATSDOGS_DATA", str(synthetic_data))
    everything = Dataset("full", 16, progress=False)
    train, val = everything.train, everything.val
    left = Dataset("full", 16, leave_out=[train.names[3], val.names[0]], progress=False)
    fewer, same = left.train, left.val
    assert fewer.names == train.names[:3] + train.names[4:] and same.names == val.names
    assert np.array_equal(fewer.images, np.delete(train.images, 3, axis=0)) and np.array_equal(
        same.images, val.images
    )
    whole, less = everything.describe(), left.describe()
    assert (
        less["photos"] == whole["photos"] | {"train": len(train) - 1}
        and less["fingerprint"] != whole["fingerprint"]
    )


def test_examples_are_as_many_as_there_are_at_most(synthetic_data, monkeypatch):
    monkeypatch.setenv("CATSDOGS_DATA", str(synthetic_data))
    few, what = dataset.examples(4)
    assert [path.parent.name for path in few] == [
        "Cat",
        "Dog",
        "Cat",
        "Dog",
    ] and what == "synthetic test photos"
    test = Dataset("full", 16, progress=False).test
    everything, _ = dataset.examples(100)
    names = [f"{path.parent.name}/{path.name}" for path in everything]
    assert set(names) <= set(test.names) and len(set(names)) == len(names) == 2 * min(
        test.labels.sum(), len(test) - test.labels.sum()
    )


def test_a_run_is_found_by_its_layers_hyperparameters_and_photos(
    synthetic_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("CATSDOGS_DATA", str(synthetic_data))
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    model_file = tmp_path / "some.keras"
    model_file.write_bytes(b"anything")
    photos = Dataset("full", 56, progress=False)
    p = fit.TWO_CONV | dict(
        SPLIT="full", IMAGE_SIZE=56, FILTERS=(4, 8), SEED=0, PRECISION="float32"
    )
    records.save_record(
        "some",
        model_file,
        parameters=1,
        data=photos.describe(),
        hyperparameters=p,
        history={"loss": [1.0]},
        best_epoch=1,
        metrics={},
        seconds=1.0,
        run_key=fit.key(p, photos),
    )

    def found(changed={}, photos=photos, **options):
        return records.find(fit.key(p | changed, photos, **options), "missing", "some")

    assert found() == "some"
    assert found({"PRECISION": "mixed_bfloat16"}) == "some"  # how it computes is no difference
    assert found({"FILTERS": [4, 8]}) == "some"  # as a record has it
    assert found({"FILTERS": [4, 16]}) is None and found({"SEED": 1}) is None
    assert (
        found(photos=Dataset("full", 56, leave_out=photos.train.names[:1], progress=False)) is None
    )

    def edited(p):
        return keras.Sequential(
            [layer for layer in cnn.build(p).layers if not isinstance(layer, layers.Dropout)]
        )

    assert found(build=edited) is None


@pytest.mark.parametrize(
    "name", ["two-conv", "compare-residual", "compare-softmax", "compare-baseline"]
)
def test_the_networks_on_record_are_those_of_the_package(name):
    record = json.loads((paths.included() / name / "record.json").read_text())
    model, network = fit.training_model(record["hyperparameters"])
    assert network.count_params() == record["parameters"]
    assert run_key(model, record["hyperparameters"], record["data"]) == record["run_key"]


# --- the order of photos --------------------------------------------------------------------------


def test_every_epoch_has_every_photo_once_in_another_order():
    batches = Batches(some_photos(50), 16, seed=1)
    assert batches.steps == 4
    epochs = [
        np.concatenate([batches[epoch * 4 + step][0] for step in range(4)]) for epoch in range(2)
    ]
    for images in epochs:
        assert np.array_equal(
            np.sort(images.reshape(50, -1).sum(1)),
            np.sort(batches.photos.images.reshape(50, -1).sum(1)),
        )
    assert not np.array_equal(*epochs)
    later = Batches(some_photos(50), 16, seed=1)
    later.first_epoch = 1
    assert np.array_equal(later[2][0], batches[4 + 2][0])


def test_a_batch_has_the_labels_of_its_photos():
    photos = some_photos()
    images, labels = Batches(photos, 10, seed=0)[3]
    for image, label in zip(images, labels[:, 0]):
        index = np.flatnonzero((photos.images == image).all((1, 2, 3)))[0]
        assert photos.labels[index] == label


def test_class_weights_make_classes_count_alike():
    photos = some_photos(50)
    photos = Photos(photos.images, np.repeat(np.uint8([0, 1]), [40, 10]), photos.names)
    assert len(Batches(photos, 16)[0]) == 2
    images, labels, weights = zip(
        *(Batches(photos, 16, class_weight="balanced")[step] for step in range(4))
    )
    labels, weights = np.concatenate(labels)[:, 0], np.concatenate(weights)
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())


# --- training, killed and resumed -----------------------------------------------------------------

RUN = """
import sys; sys.path.insert(0, {tests!r})
from test_training import run
run(epochs={epochs}, sleep={sleep})
"""


def run(epochs=5, sleep=0.0, resume=True, callbacks=(), size=16):
    """Train the small model; prints one line per epoch and writes the history beside the models."""
    photos, val = some_photos(), some_photos(20)
    keras.utils.set_random_seed(0)
    model = small_model(size)
    training_model = keras.Sequential([model.inputs[0], augment.augmentation("strong", 0), model])
    schedule = keras.optimizers.schedules.CosineDecay(0.01, epochs * 6)
    training_model.compile(
        keras.optimizers.AdamW(schedule, use_ema=True, ema_momentum=0.9),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=backend.jit_compile(),
    )
    batches = Batches(photos, 8, seed=2)
    estimate_seconds(training_model, batches, epochs)
    checkpoint = Checkpoint(
        run_key(training_model, {"EPOCHS": epochs}, {"split": "none", "fingerprint": "none"}),
        batches,
        resume=resume,
    )
    slow = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(sleep))
    history = training_model.fit(
        batches,
        steps_per_epoch=batches.steps,
        shuffle=False,
        epochs=epochs,
        verbose=0,
        validation_data=(val.images, val.labels[:, None]),
        callbacks=[checkpoint, EMAWeights(), LiveCurves(checkpoint), slow, *callbacks],
    )
    (paths.runs() / "history.json").write_text(json.dumps(history.history))
    return model, checkpoint, history.history


def test_a_killed_run_goes_on_to_the_same_history(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path / "whole"))
    _, checkpoint, whole = run()
    assert len(whole["loss"]) == 5 and not checkpoint.path.exists()

    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path / "killed"))
    code = RUN.format(tests=os.path.dirname(__file__), epochs=5, sleep=0.4)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=paths.PROJECT
    )
    for line in process.stdout:
        if line.startswith("epoch 3/5"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert (
        process.returncode == -signal.SIGKILL
        and not (tmp_path / "killed" / "history.json").exists()
    )

    model, checkpoint, resumed = run()
    assert "Resuming an interrupted run after epoch 3" in capsys.readouterr().out
    assert resumed.keys() == whole.keys()
    for name in whole:
        np.testing.assert_allclose(resumed[name], whole[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_finished_run_is_taken_from_its_record(synthetic_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_DATA", str(synthetic_data))
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    photos = Dataset("full", 56, progress=False)
    p = fit.TWO_CONV | dict(SPLIT="full", IMAGE_SIZE=56, FILTERS=(4, 8), DENSE_UNITS=4, EPOCHS=2)
    p |= dict(SEED=0, PRECISION="float32")
    trained = fit.train(p, photos)
    fit.save("mine", trained, p, photos, {"val": {}})

    model, network = fit.training_model(p)
    optimizer = fit.optimizer(p, 2)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    finished = Checkpoint("other", Batches(photos.train, 64))
    finished.take(records.find(fit.key(p, photos), "none", "mine"))
    callbacks = [finished, EMAWeights(), LiveCurves(finished)]
    model.fit(finished.batches, steps_per_epoch=2, shuffle=False, epochs=2, callbacks=callbacks)
    assert finished.history == trained.history and finished.best_epoch == trained.best_epoch
    assert finished.seconds == pytest.approx(trained.seconds, abs=0.1)
    for found, expected in zip(network.get_weights(), trained.model.get_weights(), strict=True):
        assert np.array_equal(found, expected)
    assert "On record as mine" in capsys.readouterr().out and not finished.path.exists()
    untaken = Checkpoint("another", Batches(photos.train, 64))
    untaken.take(records.find(fit.key(p | dict(SEED=1), photos), "mine"))
    assert untaken.history == {}


def test_the_average_of_the_best_epoch_is_restored(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    trained, averages = {}, {}

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            copy = [
                [ops.convert_to_numpy(v).copy() for v in variables]
                for variables in (
                    self.model.trainable_variables,
                    self.model.optimizer._model_variables_moving_average,
                )
            ]
            trained[epoch + 1], averages[epoch + 1] = copy

    model, checkpoint, history = run(epochs=6, callbacks=[Keep()])
    best = int(np.argmin(history["val_loss"])) + 1
    assert checkpoint.best_epoch == best
    for variable, average, value in zip(
        model.trainable_variables, averages[best], trained[best], strict=True
    ):
        assert np.array_equal(ops.convert_to_numpy(variable), average)
        assert not np.array_equal(
            average, value
        )  # training itself goes on with the weights as they are
    # What was validated is what is kept.
    val = some_photos(20)
    model.compile(loss="binary_crossentropy")
    assert model.evaluate(val.images, val.labels[:, None], verbose=0) == pytest.approx(
        history["val_loss"][best - 1], rel=1e-4
    )


def test_averaging_does_not_change_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    averaged = run(epochs=3)[2]
    monkeypatch.setattr(sys.modules[__name__], "EMAWeights", keras.callbacks.Callback)
    plain = run(epochs=3)[2]
    np.testing.assert_allclose(averaged["loss"], plain["loss"], rtol=1e-6)
    assert not np.allclose(averaged["val_loss"], plain["val_loss"])


def test_interrupting_stops_after_the_epoch_and_can_be_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    handler = signal.getsignal(signal.SIGINT)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)

    _, checkpoint, history = run(callbacks=[Interrupt()])
    assert len(history["loss"]) == 2 and checkpoint.path.exists()
    assert signal.getsignal(signal.SIGINT) is handler
    _, checkpoint, continued = run()
    assert "Resuming an interrupted run after epoch 2" in capsys.readouterr().out
    assert (
        len(continued["loss"]) == 5
        and continued["loss"][:2] == history["loss"]
        and not checkpoint.path.exists()
    )


def test_a_requested_stop_ends_within_the_epoch_which_does_not_count(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_MODELS", str(tmp_path))
    steps = []

    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            steps.append(batch)
            if len(steps) == 9:  # the third of six steps in the second epoch
                control.request_stop()

    with control.one_training():
        _, checkpoint, history = run(callbacks=[Stop()])
    assert len(steps) == 9 and checkpoint.interrupted
    assert len(history["loss"]) == 1 and checkpoint.best_epoch == 1
    assert "Stopped after epoch 1 of 5" in capsys.readouterr().out
    with control.one_training():  # which forgets the stop
        resumed = run()[2]
    assert len(resumed["loss"]) == 5 and resumed["loss"][0] == history["loss"][0]


def test_one_thread_trains_at_a_time():
    refused = []

    def train():
        try:
            with control.one_training():
                refused.append(None)
        except control.BusyError as error:
            refused.append(str(error))

    with control.one_training(), control.one_training():  # the same thread may
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    train()
    assert "Another run is being trained" in refused[0] and refused[1] is None
    with pytest.raises(control.StoppedError) as stopped, control.one_training():
        raise KeyboardInterrupt
    assert stopped.value._render_traceback_() == ["Stopped at once; the epoch begun is lost."]
    train()
    assert refused[2] is None


@pytest.mark.parametrize("where", ["loss", "val_loss"])
def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path, monkeypatch, where):
    monkeypatch.setenv("CATSDOGS_MODELS", str(tmp_path))
    handler = signal.getsignal(signal.SIGINT)
    steps = []

    class Diverge(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            steps.append(batch)
            if where == "loss" and len(steps) == 8:  # the second step of the second epoch
                self.model.layers[-1].layers[-1].bias.assign([np.nan])

        def on_test_begin(self, logs=None):
            if where == "val_loss" and len(steps) == 12:
                self.model.layers[-1].layers[-1].bias.assign([np.nan])

    with pytest.raises(control.DivergedError, match="in epoch 2 .* LEARNING_RATE is too high"):
        run(callbacks=[Diverge()])
    assert len(steps) == (8 if where == "loss" else 12)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not list(tmp_path.glob("checkpoints/*.npz"))  # nothing to resume: it would diverge again


def test_a_trained_model_is_not_trained_on_by_accident(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_MODELS", str(tmp_path))
    model = small_model()
    model.compile("adam", "binary_crossentropy")
    photos = some_photos()
    batches = Batches(photos, 8)

    def train():
        model.fit(
            batches,
            steps_per_epoch=2,
            validation_data=(photos.images, photos.labels[:, None]),
            callbacks=[Checkpoint("some", batches)],
            verbose=0,
        )

    train()
    with pytest.raises(control.TrainingError, match="trained already"):
        train()


def test_training_again_is_training_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    first, second = run(epochs=2)[2], run(epochs=2)[2]
    assert len(second["loss"]) == 2
    assert first["loss"] == pytest.approx(second["loss"])


def test_a_damaged_checkpoint_starts_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    _, checkpoint, _ = run(epochs=2)
    assert not checkpoint.path.exists()
    checkpoint.path.write_bytes(b"PK\x03\x04 damaged")
    assert len(run(epochs=2)[2]["loss"]) == 2
    assert "starting from scratch" in capsys.readouterr().out


def test_other_hyperparameters_are_another_run():
    model = small_model()
    photos, others = ({"split": "full", "fingerprint": name} for name in ("some", "others"))
    assert run_key(model, {"RATE": 1}, photos) == run_key(
        small_model(), {"RATE": 1, "PRECISION": "float32"}, photos
    )
    with backend.precision("mixed_bfloat16"):  # how it computes is no difference
        assert run_key(model, {"RATE": 1}, photos) == run_key(small_model(), {"RATE": 1}, photos)
    edited = keras.Sequential(
        [keras.Input((16, 16, 3)), *small_model().layers[:-1], layers.Dense(1, activation="tanh")]
    )
    keys = [
        run_key(model, {"RATE": 1}, photos),
        run_key(model, {"RATE": 2}, photos),
        run_key(model, {"RATE": 1}, others),
        run_key(small_model(24), {"RATE": 1}, photos),
        run_key(edited, {"RATE": 1}, photos),
    ]
    assert len(set(keys)) == 5


def test_a_hyperparameter_that_is_none_changes_no_key():
    photos = {"split": "full", "fingerprint": "some"}
    keys = [run_key(small_model(), p, photos) for p in ({}, {"CLASS_WEIGHT": None})]
    assert keys[0] == keys[1] != run_key(small_model(), {"CLASS_WEIGHT": "balanced"}, photos)


def test_networks_that_differ_only_in_how_layers_are_connected_are_different_runs():
    def model(crossed):
        a = keras.Input((4,))
        b, c = layers.Dense(4)(a), layers.Dense(4, activation="relu")(a)
        return keras.Model(a, layers.Subtract()([c, b] if crossed else [b, c]))

    photos = {"split": "full", "fingerprint": "some"}
    assert (
        run_key(model(False), {}, photos)
        == run_key(model(False), {}, photos)
        != run_key(model(True), {}, photos)
    )


def test_the_estimate_leaves_the_model_as_it_was():
    model = small_model()
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    before = [ops.convert_to_numpy(v).copy() for v in model.variables]
    seconds = estimate_seconds(model, Batches(some_photos(), 8), 10)
    assert 0 < seconds < 600
    for variable, value in zip(model.variables, before, strict=True):
        assert np.array_equal(ops.convert_to_numpy(variable), value)
    assert all(
        np.all(ops.convert_to_numpy(v) == 0)
        for v in model.optimizer.variables
        if "iteration" in v.path
    )


def test_the_time_left_leaves_out_compiling_and_counts_validation():
    clock = TimeLeft(3)
    clock.begin_epoch(0.0)
    assert clock.left(0.0) is None
    times = {0.1: 30.0, 0.2: 40.0, 0.3: 41.0, 0.6: 44.0, 1.0: 48.0}  # 40 seconds of compiling
    for share, now in times.items():
        clock.end_step(now, share)
        assert (clock.left(now) is None) == (share < 0.3)
        if share == 0.6:  # 10 seconds per epoch of training, and half a second of validation
            assert clock.left(now) == pytest.approx(2.4 * 10 + 3 * 0.5)
    clock.end_epoch(50.0)  # 8 seconds and, it has turned out, 2 seconds of validation
    assert clock.left(50.0) == pytest.approx(2 * 12)
    clock.begin_epoch(50.0)
    assert clock.left(56.0) == pytest.approx(6 + 12)
    clock.end_epoch(70.0)  # slower now
    clock.begin_epoch(70.0)
    assert clock.left(75.0) == pytest.approx(15) and clock.left(99.0) == 0


@pytest.mark.parametrize(
    "seconds, text",
    [
        (1, "1 second"),
        (50, "50 seconds"),
        (420, "7 minutes"),
        (4800, "80 minutes"),
        (2 * 3600 + 20 * 60, "2 h 20 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# --- first filters -------------------------------------------------------------------------------


def test_whitened_answers_are_uncorrelated_and_of_one_size():
    # Smooth pictures, whose neighbouring pixels are much alike, as in photos.
    rng = np.random.default_rng(0)
    images = ops.convert_to_numpy(
        ops.image.resize(rng.integers(0, 256, (300, 8, 8, 3)).astype("float32"), (32, 32))
    )
    convolution = layers.Conv2D(16, 5, use_bias=False)
    convolution.build((None, 32, 32, 3))
    whitening.whiten(convolution, images, patches=5000)
    kernel = ops.convert_to_numpy(convolution.kernel)
    assert np.array_equal(kernel[..., :8], -kernel[..., 8:])
    answers = ops.convert_to_numpy(convolution(images / 127.5 - 1)).reshape(-1, 16)[:, :8]
    spread = answers.std(0)
    assert spread.max() / spread.min() < 2
    random = ops.convert_to_numpy(layers.Conv2D(8, 5)(images / 127.5 - 1)).reshape(-1, 8)
    off = ~np.eye(8, dtype=bool)
    assert abs(np.corrcoef(answers.T)[off]).max() < 0.15 < abs(np.corrcoef(random.T)[off]).max()


@pytest.mark.parametrize("filters, size, filled", [(64, 3, 54), (33, 5, 32), (1, 5, 0), (8, 1, 6)])
def test_filters_beyond_what_whitening_gives_stay_random(filters, size, filled):
    convolution = layers.Conv2D(filters, size, use_bias=False)
    convolution.build((None, 16, 16, 3))
    before = ops.convert_to_numpy(convolution.kernel).copy()
    whitening.whiten(convolution, some_photos().images, patches=500)
    changed = (ops.convert_to_numpy(convolution.kernel) != before).any((0, 1, 2))
    assert changed.tolist() == [True] * filled + [False] * (filters - filled)
    assert np.isfinite(ops.convert_to_numpy(convolution.kernel)).all()


def test_more_whitening_filters_than_there_are_directions_are_refused():
    with pytest.raises(ValueError, match="at most 54"):
        whitening.whitening_filters(some_photos().images, (3, 3), 64)


# --- saving ---------------------------------------------------------------------------------------


def save_small(name, **facts):
    model = small_model(24)
    given = dict(
        data=Dataset("full", 24).describe(),
        hyperparameters={"SPLIT": "full", "IMAGE_SIZE": 24},
        history={"loss": [1.0]},
        best_epoch=1,
        metrics={"val": {}},
        seconds=1.0,
    )
    return model, records.save_run(name, model, **given | facts)


def test_a_saved_run_reloads_and_the_record_is_the_models(synthetic):
    model, folder = save_small("test")
    images = some_photos(size=24).images
    expected = model.predict(images, verbose=0)
    assert expected.shape == (48, 1) and 0 <= expected.min() <= expected.max() <= 1
    reloaded = records.load_model("test")
    np.testing.assert_allclose(reloaded.predict(images, verbose=0), expected, atol=1e-6)
    assert not any("RandomAugmentation" in type(layer).__name__ for layer in reloaded.layers)
    record = records.read("test")
    assert record["data"]["source"] == "synthetic" and record["data"]["photos"]["test"] > 0
    assert (
        record["versions"]["keras"] == keras.__version__
        and record["parameters"] == model.count_params()
    )
    records.add_metrics("test", "test", {"accuracy": {"value": 0.5}})
    assert records.read("test")["metrics"] == {"val": {}, "test": {"accuracy": {"value": 0.5}}}
    path = folder / "model.keras"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="not the model"):
        records.load_model("test")


def test_training_never_writes_to_an_included_model(synthetic):
    before = contents_of_included()
    for name in ("two-conv", "pretrained", "compare-residual"):
        with pytest.raises(ValueError, match=f"'{name}' is an included model"):
            save_small(name)
        with pytest.raises(ValueError, match="choose a different name"):
            records.save_record(name, paths.PROJECT / "README.md", **some_record())
    # What is measured on one's own photos is returned, but the published record stays.
    found = records.add_metrics("two-conv", "test", {"accuracy": {"value": 0.5}})
    assert found["metrics"]["test"] == {"accuracy": {"value": 0.5}}
    assert records.add_facts("two-conv", calibration={"temperature": 3})["calibration"] == {
        "temperature": 3
    }
    assert contents_of_included() == before


def contents_of_included():
    return {path: path.read_bytes() for path in paths.included().glob("*/*") if path.is_file()}


def some_record():
    return dict(
        parameters=1,
        data={},
        hyperparameters={},
        history={"loss": []},
        best_epoch=1,
        metrics={},
        seconds=1.0,
    )


def test_training_again_removes_what_was_exported_from_the_earlier_model(synthetic):
    folder = save_small("test")[1]
    for name in ("model.onnx", "model.tflite", "model_int8.tflite"):
        (folder / name).write_bytes(b"of the earlier model")
    save_small("test")
    assert {path.name for path in folder.iterdir()} == {"model.keras", "record.json"}
    assert paths.model_names()[0] == "test" and "two-conv" in paths.model_names()


@pytest.mark.parametrize("name", ["my run/1", "", "..", "../x", "a b", ".hidden", "x" * 101, "x."])
def test_a_name_that_no_folder_can_have_is_refused(synthetic, name):
    with pytest.raises(ValueError, match="expected up to 100 letters"):
        save_small(name)


def test_a_synthetic_run_has_a_name_of_its_own(synthetic, empty, monkeypatch):
    assert records.run_name("mine") == "mine"
    monkeypatch.setenv("CATSDOGS_DATA", str(synthetic))
    assert dataset.is_synthetic() and records.run_name("mine") == "mine-synthetic"
    assert records.run_name("two-conv") == "two-conv"  # included


def test_missing_records_say_what_to_do(empty):
    with pytest.raises(FileNotFoundError, match="no run 'none'.* or choose from .*two-conv"):
        records.read("none")


# --- Grad-CAM -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behind",
    [["relu"], ["pool", "relu"], ["pool", "norm", "relu"], ["norm", "relu", "pool"]],
    ids="-".join,
)
def test_gradcam_points_at_what_decides(behind):
    # A model that says "dog" for red and nothing else: the map must be where the red is, as fine as
    # the convolution.
    kinds = {
        "relu": lambda: layers.Activation("relu"),
        "pool": lambda: layers.MaxPooling2D(2),
        "norm": layers.BatchNormalization,
    }
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(1, 3, padding="same"),
            *(kinds[name]() for name in behind),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    kernel = np.zeros((3, 3, 3, 1), "float32")
    kernel[1, 1, 0] = 1
    model.layers[1].set_weights([kernel, np.zeros(1, "float32")])
    inputs = model.layers[-1].kernel.shape[0]
    model.layers[-1].set_weights(
        [np.ones((inputs, 1), "float32"), np.full(1, -5 * inputs / 256, "float32")]
    )
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, 2:5, 10:13, 0] = 255
    found = gradcam.gradcam(model, image)[0]
    assert found.shape == (16, 16) and found.max() == 1
    assert found[2:5, 10:13].min() > 0.9 and found[9:].max() < 0.1 and found[2, 9] < 0.1


def test_gradcam_needs_a_convolution():
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(1, activation="sigmoid")]
    )
    with pytest.raises(ValueError, match="no convolution"):
        gradcam.gradcam(model, np.zeros((1, 4, 4, 3)))


def test_precision_holds_for_layers_built_within():
    before = keras.config.dtype_policy().name
    with backend.precision("mixed_bfloat16"):
        layer = layers.Dense(2)
        layer.build((None, 3))
    assert layer.compute_dtype == "bfloat16" and layer.kernel.dtype == "float32"
    assert keras.config.dtype_policy().name == before
    with pytest.raises(RuntimeError), backend.precision("mixed_bfloat16"):
        raise RuntimeError
    assert keras.config.dtype_policy().name == before


@pytest.mark.parametrize(
    "flags, gpus, name, expected",
    [
        ("fpu avx512_bf16 sse", [], "tensorflow", "mixed_bfloat16"),
        ("fpu avx2 sse", [], "tensorflow", "float32"),
        ("fpu avx512_bf16 sse", [], "jax", "float32"),
        ("fpu avx512_bf16 sse", ["NVIDIA L4"], "tensorflow", "float32"),
    ],
)
def test_bfloat16_is_for_where_it_was_measured_to_pay(
    monkeypatch, tmp_path, flags, gpus, name, expected
):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(backend, "_CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr(backend, "gpus", lambda: gpus)
    monkeypatch.setattr(backend, "name", lambda: name)
    assert backend.faster_precision() == expected
    monkeypatch.setattr(backend, "_CPU_FACTS", tmp_path / "missing")  # as on macOS
    assert backend.faster_precision() == "float32"


def test_the_backend_names_its_device():
    assert backend.name() in ("tensorflow", "jax", "torch")
    assert "core" in backend.device() or backend.gpus()


@pytest.mark.parametrize(
    "module", sorted(path.name for path in (paths.PROJECT / "catsdogs").glob("*.py"))
)
def test_only_the_backend_check_calls_a_backend_by_name(module):
    text = (paths.PROJECT / "catsdogs" / module).read_text()
    called = [
        line
        for line in text.splitlines()
        if line.strip().startswith(
            (
                "import tensorflow",
                "import torch",
                "import jax",
                "from tensorflow",
                "from torch",
                "from jax",
            )
        )
    ]
    assert module == "backend.py" or called == []
