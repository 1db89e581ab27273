"""Checkpoints: save a run after every epoch, resume it, and end with its best epoch."""

import hashlib
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np

from catsdogs import arrays, backend, files, paths
from catsdogs.backend import keras
from catsdogs.training import control, records
from catsdogs.training.batches import Batches


class Checkpoint(keras.callbacks.Callback):
    """Saves the run after every epoch, resumes it, and restores the best epoch at the end.

    ``KEY.npz`` in `catsdogs.paths.checkpoints` holds all weights, the optimizer's state, the state
    of every random generator, the history and the weights of the best epoch. It is replaced in one
    step, so a run may be killed at any moment: at most one epoch is lost. `key` names the
    run; a different key starts from scratch. Once all epochs have been trained the file is removed,
    so that the next run is a new one.

    Interrupting (the notebook's stop button, Ctrl-C) ends the run after the current epoch; a second
    time ends it at once. `catsdogs.training.control.request_stop`, from any thread, ends it after
    the current step, and the epoch begun is lost. Training again with the same `key` resumes it.
    The best epoch is the one with the lowest validation loss; with ``keep="last"`` the run ends
    with its last epoch instead.

    Raises `catsdogs.training.control.DivergedError` as soon as the loss is no finite number, and
    `catsdogs.training.control.TrainingError` for a model that has been trained before.
    """

    def __init__(self, key: str, batches: Batches, *, resume: bool = True, keep: str = "best"):
        super().__init__()
        self.keep = keep
        self.path = paths.checkpoints() / f"{key}.npz"
        self.batches, self.resume = batches, resume
        self.history: dict[str, list[float]] = {}
        self.best_epoch, self.seconds = 0, 0.0
        self.interrupted = False
        self._cut_short = False  # within an epoch, which does not count then
        self._finished: dict | None = None

    def take(self, name: str | None) -> None:
        """Take the finished run `name` from its record: `fit` restores it, and trains no epoch.

        With None, as `catsdogs.training.records.find` returns it, `fit` trains.
        """
        if name is None:
            return
        record = records.read(name)
        print(f"On record as {name}, trained {record['finished'][:10]}: not trained again.")
        self.history, self.best_epoch = record["history"], record["best_epoch"]
        self.seconds = record["seconds"]
        self._finished = {"weights": records.load_model(name).get_weights()}

    def on_train_begin(self, logs=None):
        self.best, self.interrupted, self._cut_short = None, False, False
        if self._finished:
            network = [layer for layer in self.model.layers if isinstance(layer, keras.Model)][-1]
            network.set_weights(self._finished["weights"])
            self.best, self.model._initial_epoch = self._weights(), self.epochs_done
            if not self.model.optimizer.built:  # as the first training step would do
                self.model.optimizer.build(self.model.trainable_variables)
        state = self._read() if self.resume and not self._finished else None
        if state:
            for variable, value in zip(self._variables(), state["variables"], strict=True):
                variable.assign(value)
            self.best, facts = state["best"], state["facts"]
            self.history, self.best_epoch = facts["history"], facts["best_epoch"]
            self.seconds = facts["seconds"]
            # Keras's own BackupAndRestore sets the initial epoch in the same way.
            self.model._initial_epoch = self.epochs_done
            print(f"Resuming an interrupted run after epoch {self.epochs_done}.")
        elif not self._finished and int(self.model.optimizer.iterations):
            raise control.TrainingError(
                "This model has been trained already, and its learning rate schedule is used up: "
                "build and compile it again (in a notebook, run the cells from there on)."
            )
        self.batches.first_epoch = self.epochs_done
        self._started, self._seconds_before = time.monotonic(), self.seconds
        self._listen()

    def on_train_batch_begin(self, batch, logs=None):
        # Every epoch starts from a seed of its own, so that a resumed one draws the same random
        # numbers. (At its first batch: on PyTorch, setting up the epoch draws some as well.)
        if batch == 0:
            sequence = np.random.SeedSequence((self.batches.seed, self.epochs_done))
            backend.seed_global_generator(int(sequence.generate_state(1)[0]))

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"])
        if control.stop_requested():
            self.interrupted = self.model.stop_training = True
            self._cut_short = batch + 1 < self.params["steps"]

    @property
    def epochs_done(self) -> int:
        """The number of epochs trained so far, including those before an interruption."""
        return len(self.history.get("loss", []))

    def on_test_end(self, logs=None):
        # What was validated: with `EMAWeights`, the averaged weights.
        self.validated = self._weights()

    def on_epoch_end(self, epoch, logs=None):
        if self._cut_short:
            return
        self._check(logs["val_loss"])
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        first = self.keep == "last" or self.best is None
        if first or logs["val_loss"] < self.history["val_loss"][self.best_epoch - 1]:
            self.best, self.best_epoch = self.validated, epoch + 1
        self.seconds = self._seconds_before + time.monotonic() - self._started
        self._write()
        if self.interrupted or control.stop_requested():
            self.interrupted = self.model.stop_training = True

    def on_train_end(self, logs=None):
        self._stop_listening()
        for variable, value in zip(self.model.weights, self.best or [], strict=bool(self.best)):
            variable.assign(value)
        self.model.history.history = self.history
        self.model.history.epoch = list(range(self.epochs_done))
        if self.epochs_done >= self.params["epochs"]:
            self.path.unlink(missing_ok=True)
        elif self.interrupted and not self.epochs_done:
            print("Stopped in the first epoch: nothing is kept.")
        elif self.interrupted:
            print(
                f"Stopped after epoch {self.epochs_done} of {self.params['epochs']}; the model has "
                f"the weights of epoch {self.best_epoch}, the best so far. Run it again to resume."
            )

    def _check(self, loss):
        # Whatever is compared with NaN is false, so no later epoch could become the best one; and
        # the same run would fail again, so it is not one to resume.
        if not math.isfinite(loss):
            self._stop_listening()
            self.path.unlink(missing_ok=True)
            raise control.DivergedError(self.epochs_done + 1)

    def _variables(self):
        # In the order in which they were built: the same for every model built by the same code.
        return [*self.model.variables, *self.model.optimizer.variables]

    def _weights(self):
        return [keras.ops.convert_to_numpy(weight).copy() for weight in self.model.weights]

    def _write(self):
        facts = {"history": self.history, "best_epoch": self.best_epoch, "seconds": self.seconds}
        values = {f"variable{i}": _array(v) for i, v in enumerate(self._variables())}
        values |= {f"best{i}": value for i, value in enumerate(self.best)}
        write(self.path, arrays.packed(facts=np.array(json.dumps(facts)), **values))

    def _read(self):
        """The state in the file; None where there is none, or one that does not fit the model."""
        variables, weights = self._variables(), self.model.weights
        try:
            found = arrays.read(self.path)
            facts = json.loads(str(found["facts"]))
            check_progress(facts["history"], facts["best_epoch"], facts["seconds"])
            return {
                "facts": facts,
                "variables": [_fitting(found[f"variable{i}"], v) for i, v in enumerate(variables)],
                "best": [_fitting(found[f"best{i}"], v) for i, v in enumerate(weights)],
            }
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever is wrong with it, the run can be trained
            print(f"{paths.shown(self.path)} cannot be used ({error}): starting from scratch.")
            return None

    def _listen(self):
        self._handler = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _stop_listening(self):
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _on_interrupt(self, number, frame):
        if self.interrupted:
            self._stop_listening()
            raise KeyboardInterrupt
        self.interrupted = True
        print("Stopping at the end of this epoch. Interrupt again to stop at once and lose it.")


def write(path: Path, content: bytes) -> None:
    """Write a checkpoint; where that fails, as on a full disk, say so and let training go on."""
    try:
        files.write(path, content, sync=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        print(
            f"The checkpoint {paths.shown(path)} could not be written ({reason}). Training goes "
            "on; if it is interrupted, it resumes from the last checkpoint that could be written."
        )


def check_progress(history: dict, best_epoch: int, seconds: float) -> None:
    """Raise `ValueError` unless these, read from a checkpoint, are what a run can have written."""
    epochs = len(history["loss"])
    numbers = [seconds, *(value for values in history.values() for value in values)]
    if (
        any(len(values) != epochs for values in history.values())
        or not all(isinstance(number, (int, float)) for number in numbers)
        or best_epoch not in range(1, epochs + 1)
    ):
        raise ValueError("its history is not that of a run")


def _array(variable):
    return keras.ops.convert_to_numpy(variable)


def _fitting(value, variable):
    """`value`, unless it cannot be that of `variable`."""
    if value.shape != tuple(variable.shape) or value.dtype != _array(variable).dtype:
        raise ValueError("its arrays are not those of this network")
    return value


class EMAWeights(keras.callbacks.Callback):
    """Validates the exponential moving average (EMA) of the weights.

    The average is steadier than the weights of any one step. The optimizer keeps it: give it
    ``use_ema=True, ema_momentum=0.995``. Place this behind `Checkpoint` in the list of callbacks,
    which then keeps the average of the best epoch. Training itself continues from the weights as
    they are, to the last digit. (`keras.callbacks.SwapEMAWeights` of Keras 3.15 does the same, but
    on TensorFlow it swaps by adding and subtracting, which changes the last digits, so that
    validating would change the training.)
    """

    def on_test_begin(self, logs=None):
        variables = self.model.trainable_variables
        averages = self.model.optimizer._model_variables_moving_average
        self.trained = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
        for variable, average in zip(variables, averages, strict=True):
            # A copy: JAX frees the array that a step was given, and the average must outlive it.
            variable.assign(keras.ops.convert_to_numpy(average).copy())

    def on_test_end(self, logs=None):
        for variable, value in zip(self.model.trainable_variables, self.trained, strict=True):
            variable.assign(value)


def run_key(model: keras.Model, hyperparameters: dict, data: dict) -> str:
    """16 hexadecimal digits that identify a run: the same layers, hyperparameters and photos.

    `model` is the model that is trained, data augmentation included; `data` is the description of
    `catsdogs.data.dataset.Dataset.describe`. ``PRECISION`` does not count: it is how a machine
    computes a run, not which run it is. Nor does a hyperparameter that is None, as good as absent.
    """
    facts = {
        key: value
        for key, value in hyperparameters.items()
        if key != "PRECISION" and value is not None
    }
    config = json.dumps(
        [_layers(model), facts, data["split"], data["fingerprint"]], sort_keys=True, default=str
    )
    return hashlib.sha256(config.encode()).hexdigest()[:16]


def _layers(model):
    """The layers of `model` and their connections, free of what machines and versions add."""
    left_out = ("dtype", "build_config", "compile_config", "module", "registered_name")
    numbers = {}  # in place of names: Keras counts them up from model to model

    def number_names(value):
        if isinstance(value, dict):
            if isinstance(value.get("name"), str):
                numbers.setdefault(value["name"], f"#{len(numbers)}")
            for item in value.values():
                number_names(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                number_names(item)

    def plain(value):
        if isinstance(value, dict):
            # Options that are off are left out: a newer Keras has more of them.
            return {
                key: plain(item)
                for key, item in sorted(value.items())
                if item not in (None, False) and key not in left_out
            }
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return numbers.get(value, value) if isinstance(value, str) else value

    config = keras.saving.serialize_keras_object(model)
    number_names(config)
    return plain(config)
