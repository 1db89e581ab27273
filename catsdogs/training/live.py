"""Live curves while a model trains, and the time that is left."""

import contextlib
import contextvars
import os
import time
from pathlib import Path

from IPython import get_ipython
from IPython.display import HTML, Image, display

from catsdogs.analysis import plots
from catsdogs.backend import keras
from catsdogs.text import duration
from catsdogs.training.batches import Batches
from catsdogs.training.checkpoint import Checkpoint

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
            print(
                f"epoch {epoch + 1}/{self.params['epochs']}  "
                + "  ".join(f"{name} {value:.4f}" for name, value in logs.items()),
                flush=True,
            )
            return
        figure = plots.curves(
            self.checkpoint.history,
            best_epoch=self.checkpoint.best_epoch,
            epochs=self.params["epochs"],
        )
        self.picture = plots.to_png(figure)
        self._progress(1.0)

    def on_train_end(self, logs=None):
        if self.in_notebook:
            done = self.checkpoint.epochs_done
            self._show(
                f"Trained {done} epoch{'s' if done != 1 else ''} in {duration(self.checkpoint.seconds)}."
            )

    def _progress(self, share):
        self.last_shown = time.monotonic()
        done = self.epoch - self.first_epoch + share
        left = (
            (time.monotonic() - self.started)
            / done
            * (self.params["epochs"] - self.first_epoch - done)
        )
        line = f"Epoch {self.epoch + 1} of {self.params['epochs']}, {share:.0%} · {duration(left)} left"
        self._show(line)
        if terminal := os.environ.get(
            "CATSDOGS_TERMINAL"
        ):  # set where a terminal runs the notebooks
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
