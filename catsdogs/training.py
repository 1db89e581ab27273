"""What goes around `model.fit`: the order of photos, checkpoints, live curves, the time it will take."""

import contextlib
import contextvars
import hashlib
import io
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import HTML, Image, display

from catsdogs import backend, paths, plots
from catsdogs.backend import keras
from catsdogs.dataset import Photos


class Batches(keras.utils.PyDataset):
    """`photos` in batches for `model.fit`, without end, in a new order every epoch of ``steps`` batches.

    The order depends on `seed` and the epoch alone, on every backend, which is what lets a run that was
    killed go on as if it had not been. (`model.fit(x, y)` cannot: it draws its order from a generator
    that no checkpoint holds. And once a seed is set, Keras 3.15 on TensorFlow repeats the first epoch's
    order in every epoch.)
    """

    def __init__(self, photos: Photos, batch_size: int = 64, seed: int = 0):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: expected 1 or more")
        self.photos, self.batch_size, self.seed = photos, int(batch_size), seed
        #: How many batches an epoch has; for `model.fit`'s ``steps_per_epoch``.
        self.steps = math.ceil(len(photos) / self.batch_size)
        #: The epoch, counted from 0, that begins with batch 0.
        self.first_epoch = 0
        self._epoch = None

    # No length makes Keras count on through the epochs. With one, it begins to read an epoch's first
    # batches before it says that the last epoch has ended, so that some would come in the old order.
    num_batches = None

    def __getitem__(self, index):
        epoch, step = divmod(index, self.steps)
        epoch += self.first_epoch
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))
            self._epoch = epoch
        chosen = self._order[step * self.batch_size:(step + 1) * self.batch_size]
        images = self.photos.images[chosen]
        if images.dtype == np.float16:  # which keeps large arrays small, but few processors compute in it
            images = images.astype(np.float32)
        return images, self.photos.labels[chosen, None]


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
            self.history, self.best_epoch, self.seconds = facts["history"], facts["best_epoch"], facts["seconds"]
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
            seed = np.random.SeedSequence((self.batches.seed, self.epochs_done)).generate_state(1)[0]
            backend.seed_global_generator(int(seed))

    @property
    def epochs_done(self) -> int:
        """How many epochs have been trained, those before an interruption counted in."""
        return len(self.history.get("loss", []))

    def on_test_end(self, logs=None):
        # The weights that were validated, which with `AverageWeights` are not those that are trained.
        self.validated = self._weights()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if self.keep == "last" or self.best is None or logs["val_loss"] < self.history["val_loss"][self.best_epoch - 1]:
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
            print(f"Stopped after epoch {self.epochs_done} of {self.params['epochs']}, with the weights of epoch "
                  f"{self.best_epoch}, the best so far. Build and train again to go on from here.")

    def _variables(self):
        # The order is that of building, so it is the same for a model built by the same code.
        return [*self.model.variables, *self.model.optimizer.variables]

    def _weights(self):
        return [keras.ops.convert_to_numpy(weight).copy() for weight in self.model.weights]

    def _write(self):
        facts = {"history": self.history, "best_epoch": self.best_epoch, "seconds": self.seconds}
        arrays = {f"variable{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self._variables())}
        arrays |= {f"best{i}": value for i, value in enumerate(self.best)}
        content = io.BytesIO()
        np.savez(content, facts=np.array(json.dumps(facts)), **arrays)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(partial, "wb") as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def _read(self):
        try:
            with np.load(self.path) as file:
                facts = json.loads(str(file["facts"]))
                variables = [file[f"variable{i}"] for i in range(len(self._variables()))]
                best = [file[f"best{i}"] for i in range(len(self.model.weights))]
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile and NumPy raise many kinds for a damaged file
            print(f"{paths.shown(self.path)} cannot be used ({error}): starting from the first epoch.")
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
        print("Will stop at the end of this epoch. Interrupt again to stop at once; that epoch is then lost.")


class AverageWeights(keras.callbacks.Callback):
    """Validates the running average of the weights, which is steadier than the weights of any one step.

    The optimizer keeps the average: give it ``use_ema=True, ema_momentum=0.995``. Stands behind `Checkpoint`
    in the list of callbacks, which then keeps the average of the best epoch. Training itself goes on with the
    weights as they are, to the last digit. (`keras.callbacks.SwapEMAWeights` of Keras 3.15 does the same, but
    swaps by adding and subtracting on TensorFlow, which changes last digits, so that validating would change
    the training.)
    """

    def on_test_begin(self, logs=None):
        optimizer = self.model.optimizer
        self.trained = [keras.ops.convert_to_numpy(variable).copy() for variable in self.model.trainable_variables]
        for variable, average in zip(self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True):
            # A copy: JAX frees the array that a step was given, and the average must outlive the validation.
            variable.assign(keras.ops.convert_to_numpy(average).copy())

    def on_test_end(self, logs=None):
        for variable, value in zip(self.model.trainable_variables, self.trained, strict=True):
            variable.assign(value)


#: Widgets to draw live curves into, (HTML, Image), instead of the output of the cell that runs: see `live_in`.
_live_widgets = contextvars.ContextVar("live_widgets", default=None)


@contextlib.contextmanager
def live_in(line, picture):
    """While this lasts, `LiveCurves` writes into `line`, an ipywidgets HTML, and draws into `picture`, an Image."""
    token = _live_widgets.set((line, picture))
    try:
        yield
    finally:
        _live_widgets.reset(token)


class LiveCurves(keras.callbacks.Callback):
    """Draws loss and accuracy after every epoch, with the time left; outside a notebook prints a line instead.

    `checkpoint` gives the epochs from before an interruption.
    """

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.checkpoint = checkpoint

    def on_train_begin(self, logs=None):
        self.in_notebook = get_ipython() is not None and hasattr(get_ipython(), "kernel")
        self.first_epoch = self.checkpoint.epochs_done
        self.started, self.last_shown = time.monotonic(), 0.0
        self.picture = b""
        if self.in_notebook and not _live_widgets.get():
            self.places = [display(HTML(""), display_id=True) for _ in range(2)]

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.in_notebook and time.monotonic() - self.last_shown > 1:
            self._progress((batch + 1) / self.params["steps"])

    def on_epoch_end(self, epoch, logs=None):
        if not self.in_notebook:
            print(f"epoch {epoch + 1}/{self.params['epochs']}  "
                  + "  ".join(f"{name} {value:.4f}" for name, value in logs.items()), flush=True)
            return
        figure = plots.curves(self.checkpoint.history, best_epoch=self.checkpoint.best_epoch,
                              epochs=self.params["epochs"])
        self.picture = plots.to_png(figure)
        self._progress(1.0)

    def on_train_end(self, logs=None):
        if self.in_notebook:
            done = self.checkpoint.epochs_done
            self._show(f"Trained {done} epoch{'s' if done != 1 else ''} in {duration(self.checkpoint.seconds)}.")

    def _progress(self, share):
        self.last_shown = time.monotonic()
        done = self.epoch - self.first_epoch + share
        left = (time.monotonic() - self.started) / done * (self.params["epochs"] - self.first_epoch - done)
        line = f"Epoch {self.epoch + 1} of {self.params['epochs']}, {share:.0%} · {duration(left)} left"
        self._show(line)
        if terminal := os.environ.get("CATSDOGS_TERMINAL"):  # set where a terminal runs the notebooks
            try:
                Path(terminal).write_text(f"\r{line:<50}\r")
            except OSError:
                del os.environ["CATSDOGS_TERMINAL"]

    def _show(self, line):
        if _live_widgets.get():
            _live_widgets.get()[0].value, _live_widgets.get()[1].value = line, self.picture
            return
        self.places[0].update(HTML(line))
        if self.picture:
            self.places[1].update(Image(self.picture))


def run_key(model: keras.Model, **facts) -> str:
    """16 hexadecimal digits that name a run: equal only for the same layers and the same `facts`."""
    config = json.dumps([model.input_shape, _configs(model), facts], sort_keys=True, default=str)
    return hashlib.sha256(config.encode()).hexdigest()[:16]


def _configs(model):
    # Without names: Keras numbers layers on, so a model that is built again has others.
    return [_configs(layer) if isinstance(layer, keras.Model)
            else [type(layer).__name__, {key: value for key, value in layer.get_config().items() if key != "name"}]
            for layer in model.layers]


def estimate_seconds(model: keras.Model, batches: Batches, epochs: int, *, steps: int = 5) -> float:
    """About how long training `epochs` will take, from timing a few steps; the model is left as it was."""
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    batch = batches[0]
    for step in range(2 + steps):
        if step == 2:  # the first steps compile
            started = time.perf_counter()
        model.train_on_batch(*batch)
    seconds = (time.perf_counter() - started) / steps
    for variable, value in zip(variables, before):
        variable.assign(value)
    model.reset_metrics()
    # Validation is a forward pass over an eighth as many photos, about a third of the cost each.
    return seconds * batches.steps * epochs * 1.05


def duration(seconds: float) -> str:
    """A span of time in words: ``"50 seconds"``, ``"7 minutes"``, ``"1 h 20 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} second{'s' if round(seconds) != 1 else ''}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
