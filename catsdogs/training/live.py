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
from catsdogs.text import duration
from catsdogs.training.batches import Batches
from catsdogs.training.checkpoint import Checkpoint

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
            measured = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
            print(f"epoch {epoch + 1}/{self.params['epochs']}  {measured}", flush=True)
            return
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._draw()
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
        epochs, done = self.params["epochs"], self.epoch - self.first_epoch + share
        per_epoch = (time.monotonic() - self.started) / done
        left = per_epoch * (epochs - self.first_epoch - done)
        line = f"Epoch {self.epoch + 1} of {epochs}, {share:.0%} · {duration(left)} left"
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


def estimate_seconds(model: keras.Model, batches: Batches, epochs: int, *, steps: int = 5) -> float:
    """Estimate how long training `epochs` will take, by timing a few steps.

    `model` must be compiled; its weights, optimizer and metrics are left as they were.
    """
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
    # Validation is a forward pass over an eighth as many photos, at about a third of the cost each.
    return seconds * batches.steps * epochs * 1.05
