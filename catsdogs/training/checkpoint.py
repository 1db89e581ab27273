"""Checkpoints: a run is saved after every epoch, resumes where it was cut short, and ends with its best epoch."""

import hashlib
import io
import json
import signal
import threading
import time

import numpy as np

from catsdogs import backend, files, paths
from catsdogs.backend import keras
from catsdogs.training.batches import Batches


class Checkpoint(keras.callbacks.Callback):
    """Saves the run after every epoch, goes on from there when it was cut short, and ends with the best epoch.

    The file ``checkpoints/KEY.npz`` below ``models/`` holds all weights, the optimizer's state, the state
    of every random generator, the history and the best epoch's weights; it is replaced as a whole, so a
    run may be killed at any moment. `key` names the run: one with another key starts afresh. Once all
    epochs have been trained the file is removed, so that training again is training anew.

    Interrupting (the notebook's stop button, Ctrl-C) ends the run after the epoch it is in; a second time
    ends it at once. Either way, training again with the same `key` goes on. The best epoch is the one
    of lowest validation loss; with ``keep="last"`` the run ends with its last epoch instead.
    """

    def __init__(self, key: str, batches: Batches, *, resume: bool = True, keep: str = "best"):
        super().__init__()
        self.keep = keep
        self.path = paths.models() / "checkpoints" / f"{key}.npz"
        self.batches, self.resume = batches, resume
        self.history, self.best_epoch, self.seconds = {}, None, 0.0
        self.interrupted = False

    def on_train_begin(self, logs=None):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.best = None
        state = self._read() if self.resume else None
        if state:
            for variable, value in zip(self._variables(), state["variables"], strict=True):
                variable.assign(value)
            self.best, facts = state["best"], state["facts"]
            self.history, self.best_epoch, self.seconds = (
                facts["history"],
                facts["best_epoch"],
                facts["seconds"],
            )
            # Where Keras's own BackupAndRestore puts the epoch to begin with.
            self.model._initial_epoch = self.epochs_done
            print(f"Going on after epoch {self.epochs_done} of a run that was cut short.")
        self.batches.first_epoch = self.epochs_done
        self._started, self._seconds_before = time.monotonic(), self.seconds
        self._listen()

    def on_train_batch_begin(self, batch, logs=None):
        # So that a resumed epoch draws what it would have drawn, every epoch begins with a seed of its own. (Its
        # first batch does: on PyTorch, setting up the epoch draws as well.)
        if batch == 0:
            seed = np.random.SeedSequence((self.batches.seed, self.epochs_done)).generate_state(1)[
                0
            ]
            backend.seed_global_generator(int(seed))

    @property
    def epochs_done(self) -> int:
        """How many epochs have been trained, those before an interruption counted in."""
        return len(self.history.get("loss", []))

    def on_test_end(self, logs=None):
        # The weights that were validated, which with `EMAWeights` are not those that are trained.
        self.validated = self._weights()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if (
            self.keep == "last"
            or self.best is None
            or logs["val_loss"] < self.history["val_loss"][self.best_epoch - 1]
        ):
            self.best, self.best_epoch = self.validated, epoch + 1
        self.seconds = self._seconds_before + time.monotonic() - self._started
        self._write()
        if self.interrupted:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self._stop_listening()
        for variable, value in zip(self.model.weights, self.best or [], strict=bool(self.best)):
            variable.assign(value)
        self.model.history.history = self.history
        self.model.history.epoch = list(range(self.epochs_done))
        if self.epochs_done >= self.params["epochs"]:
            self.path.unlink(missing_ok=True)
        elif self.interrupted:
            print(
                f"Stopped after epoch {self.epochs_done} of {self.params['epochs']}, with the weights of epoch "
                f"{self.best_epoch}, the best so far. Build and train again to go on from here."
            )

    def _variables(self):
        # The order is that of building, so it is the same for a model built by the same code.
        return [*self.model.variables, *self.model.optimizer.variables]

    def _weights(self):
        return [keras.ops.convert_to_numpy(weight).copy() for weight in self.model.weights]

    def _write(self):
        facts = {"history": self.history, "best_epoch": self.best_epoch, "seconds": self.seconds}
        arrays = {
            f"variable{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self._variables())
        }
        arrays |= {f"best{i}": value for i, value in enumerate(self.best)}
        content = io.BytesIO()
        np.savez(content, facts=np.array(json.dumps(facts)), **arrays)
        files.write(self.path, content.getvalue(), sync=True)

    def _read(self):
        try:
            with np.load(self.path) as file:
                facts = json.loads(str(file["facts"]))
                variables = [file[f"variable{i}"] for i in range(len(self._variables()))]
                best = [file[f"best{i}"] for i in range(len(self.model.weights))]
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile and NumPy raise many kinds for a damaged file
            print(
                f"{paths.shown(self.path)} cannot be used ({error}): starting from the first epoch."
            )
            return None
        return {"facts": facts, "variables": variables, "best": best}

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
        print(
            "Will stop at the end of this epoch. Interrupt again to stop at once; that epoch is then lost."
        )


class EMAWeights(keras.callbacks.Callback):
    """Validates the exponential moving average (EMA) of the weights, which is steadier than the weights of any one step.

    The optimizer keeps the average: give it ``use_ema=True, ema_momentum=0.995``. Goes behind `Checkpoint` in the list of
    callbacks, which then keeps the average of the best epoch. Training itself goes on with the weights as they are, to the
    last digit. (`keras.callbacks.SwapEMAWeights` of Keras 3.15 does the same, but swaps by adding and subtracting on
    TensorFlow, which changes last digits, so that validating would change the training.)
    """

    def on_test_begin(self, logs=None):
        optimizer = self.model.optimizer
        self.trained = [
            keras.ops.convert_to_numpy(variable).copy()
            for variable in self.model.trainable_variables
        ]
        for variable, average in zip(
            self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True
        ):
            # A copy: JAX frees the array that a step was given, and the average must outlive the validation.
            variable.assign(keras.ops.convert_to_numpy(average).copy())

    def on_test_end(self, logs=None):
        for variable, value in zip(self.model.trainable_variables, self.trained, strict=True):
            variable.assign(value)


def run_key(model: keras.Model, hyperparameters: dict, data: dict) -> str:
    """16 hexadecimal digits that name a run: equal only for the same layers, hyperparameters and photos.

    `model` is the model that is trained, augmentation included; `data` is `catsdogs.data.dataset.Dataset.describe`'s. What
    a machine computes in, ``PRECISION``, makes no difference: it is how a run is computed, not what.
    """
    facts = {key: value for key, value in hyperparameters.items() if key != "PRECISION"}
    config = json.dumps(
        [_layers(model), facts, data["split"], data["fingerprint"]], sort_keys=True, default=str
    )
    return hashlib.sha256(config.encode()).hexdigest()[:16]


def _layers(model):
    """The layers of `model` and how they are connected, without what differs between machines and versions of Keras."""
    left_out = ("dtype", "build_config", "compile_config", "module", "registered_name")
    numbers = {}  # in place of names, which Keras numbers on from model to model

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
