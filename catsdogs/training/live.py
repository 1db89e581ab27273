"""Live curves while a model trains, and an estimate of the time left."""

import contextlib
import contextvars
import os
import time
from collections.abc import Iterator
from pathlib import Path

import ipywidgets as widgets
from IPython import get_ipython
from IPython.display import HTML, Image, display

from catsdogs.analysis import plots
from catsdogs.backend import keras
from catsdogs.data.dataset import Photos
from catsdogs.text import duration
from catsdogs.training.batches import Batches
from catsdogs.training.checkpoint import Checkpoint
from catsdogs.training.hyperparameters import VALIDATION_BATCH_SIZE

#: Training steps that do not count where time is measured: they compile.
WARM_UP_STEPS = 2
#: What validation takes until it has been measured, as a share of an epoch's training: it is a
#: forward pass, a third of a step, over an eighth as many photos.
VALIDATION_SHARE = 0.05
#: What the end of an epoch takes besides: a checkpoint is written, and the curves are drawn.
EPOCH_SECONDS = 0.5

#: The widgets that live curves go to, (HTML, Image), in place of the cell's output: see `live_in`.
_live_widgets: contextvars.ContextVar[tuple | None] = contextvars.ContextVar(
    "live_widgets", default=None
)


@contextlib.contextmanager
def live_in(line: widgets.HTML, picture: widgets.Image) -> Iterator[None]:
    """Within this context, `LiveCurves` writes into `line` and draws into `picture`."""
    token = _live_widgets.set((line, picture))
    try:
        yield
    finally:
        _live_widgets.reset(token)


class LiveCurves(keras.callbacks.Callback):
    """Draws loss and accuracy after every epoch, with the time left.

    Outside a notebook it prints one line per epoch instead. `checkpoint`, if there is one, has the
    epochs from before an interruption, and the epoch that will be kept.
    """

    def __init__(self, checkpoint: Checkpoint | None = None):
        super().__init__()
        self.checkpoint = checkpoint

    def on_train_begin(self, logs=None):
        self.in_notebook = get_ipython() is not None and hasattr(get_ipython(), "kernel")
        self.first_epoch = self.checkpoint.epochs_done if self.checkpoint else 0
        self.started, self.last_shown, self.history = time.monotonic(), 0.0, {}
        self.clock, self.picture = TimeLeft(self.params["epochs"] - self.first_epoch), b""
        if self.in_notebook and not _live_widgets.get():
            self.places = [display(HTML(""), display_id=True) for _ in range(2)]

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.clock.begin_epoch(time.monotonic())

    def on_train_batch_end(self, batch, logs=None):
        now, share = time.monotonic(), (batch + 1) / self.params["steps"]
        self.clock.end_step(now, share)
        if self.in_notebook and now - self.last_shown > 1:
            self._progress(share)

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if self.in_notebook:
            self._draw()
        else:
            measured = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
            print(f"epoch {epoch + 1}/{self.params['epochs']}  {measured}", flush=True)
        self.clock.end_epoch(time.monotonic())
        if self.in_notebook:
            self._progress(1.0)

    def on_train_end(self, logs=None):
        if self.in_notebook:
            done, seconds = len(self.history.get("loss", [])), time.monotonic() - self.started
            if self.checkpoint:
                done, seconds = self.checkpoint.epochs_done, self.checkpoint.seconds
            if not self.picture:  # a finished run, from its record
                self._draw()
            self._show(f"Trained {done} epoch{'s' if done != 1 else ''} in {duration(seconds)}.")

    def _draw(self):
        history, best = self.history, None
        if self.checkpoint:
            history, best = self.checkpoint.history, self.checkpoint.best_epoch
        if history:
            figure = plots.curves(history, best_epoch=best, epochs=self.params["epochs"])
            self.picture = plots.to_png(figure)

    def _progress(self, share):
        self.last_shown = time.monotonic()
        line = f"Epoch {self.epoch + 1} of {self.params['epochs']}, {share:.0%}"
        left = self.clock.left(self.last_shown)
        if left is not None:
            line += f" · {duration(left)} left"
        self._show(line)
        terminal = os.environ.get("CATSDOGS_TERMINAL")  # set where a terminal runs the notebooks
        if terminal:
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


class TimeLeft:
    """The time that `epochs` will still take, learned from the steps and the epochs done.

    It is told what happens and when, in seconds. The first steps compile, so they do not count; the
    first epoch compiles validation besides, so it counts only as long as it is the only one.
    """

    def __init__(self, epochs: int):
        self.epochs, self._steps = epochs, 0
        self._done: list[float] = []  # seconds of each epoch
        self._begun: float | None = None  # when the epoch that is being trained did
        self._warm = self._first_epoch = 0.0

    def begin_epoch(self, now: float) -> None:
        """An epoch begins."""
        self._begun = now

    def end_step(self, now: float, share: float) -> None:
        """A training step has ended; `share` of the epoch's steps are done."""
        if self._done:
            return
        self._steps += 1
        if self._steps == WARM_UP_STEPS:
            self._warm, self._warm_share = now, share
        elif self._steps > WARM_UP_STEPS:
            per_epoch = (now - self._warm) / (share - self._warm_share)
            self._begun = now - per_epoch * share  # had the first steps not compiled
            self._first_epoch = per_epoch * (1 + VALIDATION_SHARE)

    def end_epoch(self, now: float) -> None:
        """An epoch has ended, with its validation and all that goes with it."""
        self._done.append(now - (self._begun or now))
        self._begun = None

    def left(self, now: float) -> float | None:
        """Seconds left, or None as long as nothing is known."""
        measured = self._done[1:] or self._done
        per_epoch = sum(measured) / len(measured) if measured else self._first_epoch
        if not per_epoch:
            return None
        epochs = self.epochs - len(self._done)
        if self._begun is None:
            return per_epoch * epochs
        return per_epoch * (epochs - 1) + max(per_epoch - (now - self._begun), 0.0)


def estimate_seconds(
    model: keras.Model, batches: Batches, epochs: int, val: Photos | None = None
) -> float:
    """Estimate how long training for `epochs` will take, validation on `val` included.

    It trains for some steps, as `model.fit` will, and validates some images, until all is compiled
    and two seconds have been timed. `model` must be compiled; its weights, optimizer and metrics
    are left as they were.
    """
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    step = _Stopwatch()
    model.fit(batches, steps_per_epoch=25, shuffle=False, callbacks=[step], verbose=0)
    seconds = step.seconds * batches.steps + EPOCH_SECONDS
    if val is not None:
        some = slice(2 * VALIDATION_BATCH_SIZE)
        images, labels = val.images[some], val.labels[some, None]
        for _ in range(2):  # the first time compiles
            started = time.perf_counter()
            model.evaluate(images, labels, batch_size=VALIDATION_BATCH_SIZE, verbose=0)
        seconds += (time.perf_counter() - started) * len(val.labels) / len(labels)
    for variable, value in zip(variables, before):
        variable.assign(value)
    model.reset_metrics()
    return seconds * epochs


class _Stopwatch(keras.callbacks.Callback):
    """The ``seconds`` of a training step; ends training when it knows them."""

    def on_train_batch_end(self, batch, logs=None):
        now, timed = time.perf_counter(), batch + 1 - WARM_UP_STEPS
        if timed == 0:
            self.started = now
        elif timed > 0:
            self.seconds = (now - self.started) / timed
            self.model.stop_training = now - self.started > 2
