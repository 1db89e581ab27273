"""A panel in the notebook: change hyperparameters, press Train, compare the curves."""

import ast
import contextlib
import contextvars
import html
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ipywidgets as widgets
import pandas as pd
from IPython import get_ipython

from catsdogs.analysis import plots
from catsdogs.networks.augment import PRESETS
from catsdogs.text import duration
from catsdogs.training import control
from catsdogs.training.fit import Run
from catsdogs.training.hyperparameters import validate
from catsdogs.training.live import live_in

#: The hyperparameters that need no photos to be loaded again.
FIELDS = (
    *("EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "FILTERS", "DENSE_UNITS", "DROPOUT"),
    *("AUGMENTATION", "SEED"),
)


@dataclass(frozen=True)
class Trial:
    """A run as the panel compares it; ``changed`` says which hyperparameters differ."""

    changed: str
    history: dict[str, list[float]]
    best_epoch: int
    seconds: float


def training_panel(
    train: Callable[[dict], Run], hyperparameters: dict, first: Run | None = None
) -> widgets.Widget:
    """A widget with a field for each of `FIELDS`, buttons to train and to stop, and the curves.

    `train` takes a dictionary of all hyperparameters and returns the run, as
    `catsdogs.training.fit.train` does. `hyperparameters` are the initial values; `first` is a run
    to compare with, or anything else with its ``history``, ``best_epoch`` and ``seconds``. Nothing
    is trained until Train is pressed.

    A run is trained in a thread of its own, so that Stop is heard, whether the notebook's program
    handles widgets in its main thread or not. Interrupting the kernel (■) stops it too.
    """
    return _Panel(train, hyperparameters, first).box


class _Panel:
    def __init__(self, train, hyperparameters, first):
        self.train, self.hyperparameters = train, hyperparameters
        self.fields = {name: _field(name, hyperparameters[name]) for name in FIELDS}
        self.start = widgets.Button(description="Train", button_style="primary", icon="play")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.start.on_click(self._on_start)
        self.stop.on_click(self._on_stop)
        # Several widgets, not one Output: JupyterLab does not update in place what an Output shows.
        self.message, self.line, self.table = (widgets.HTML() for _ in range(3))
        self.picture = widgets.Image(layout={"display": "none"})
        self.picture.observe(lambda _: setattr(self.picture.layout, "display", None), "value")
        self.trials: list[Trial] = []
        if first:
            self._add("the run above", first)
        self.box = widgets.VBox(
            [
                widgets.GridBox(
                    list(self.fields.values()),
                    layout={"grid_template_columns": "repeat(2, 24em)"},
                ),
                widgets.HBox([self.start, self.stop]),
                *(self.message, self.line, self.picture, self.table),
            ]
        )

    def _on_start(self, _):
        self._say("")
        typed = {name: _value(field.value) for name, field in self.fields.items()}
        try:
            chosen = validate({**self.hyperparameters, **typed})
        except control.TrainingError as error:
            self._say(error)
            return
        self.start.disabled, self.stop.disabled = True, False
        # In the context of this click, which a widget's message to the browser is an answer to.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work, chosen), daemon=True).start()

    def _on_stop(self, _):
        control.request_stop()
        self._say("Stopping after this step.")

    def _work(self, chosen):
        try:
            with control.one_training(), _interrupt_stops(), live_in(self.line, self.picture):
                run = self.train(chosen)
            self._compare(run, chosen)
        except Exception as error:  # a mistake in the notebook's network can raise anything
            self._say(error)
        finally:
            self.start.disabled, self.stop.disabled = False, True

    def _compare(self, run, chosen):
        done, changed = len(run.history.get("loss", ())), _changes(chosen, self.hyperparameters)
        if done:
            # What this run resumed is a part of it.
            resumed = f": {changed} (stopped)"
            self.trials = [one for one in self.trials if not one.changed.endswith(resumed)]
            self._add(changed + " (stopped)" * run.interrupted, run)
        stopped = f"Stopped after {done} of {chosen['EPOCHS']} epochs. Train again to resume."
        self._say(stopped if run.interrupted else "")

    def _add(self, changed, run):
        """Compare `run` with the earlier ones, in the picture and in the table."""
        history = {name: list(values) for name, values in run.history.items()}
        others = {trial.changed: trial.history for trial in self.trials}
        number = len(self.trials) + 1
        self.trials.append(Trial(f"{number}: {changed}", history, run.best_epoch, run.seconds))
        if others:
            epochs = max(len(trial.history["loss"]) for trial in self.trials)
            figure = plots.curves(history, best_epoch=run.best_epoch, epochs=epochs, others=others)
            self.picture.value = plots.to_png(figure)
        rows = [
            {
                "run": trial.changed,
                "epochs": len(trial.history["loss"]),
                "kept": trial.best_epoch,
                "validation accuracy": f"{trial.history['val_accuracy'][trial.best_epoch - 1]:.1%}",
                "training time": duration(trial.seconds),
            }
            for trial in self.trials
        ]
        self.table.value = pd.DataFrame(rows).to_html(index=False, border=0, justify="left")

    def _say(self, text):
        self.message.value = "<br>".join(html.escape(line) for line in str(text).splitlines())


@contextlib.contextmanager
def _interrupt_stops() -> Iterator[None]:
    """Within this context, interrupting the kernel (■) stops the run that a thread trains.

    Only the main thread is told of an interrupt and may choose what it does. So that thread is
    asked, by way of its event loop, which gets to it when no cell is running. (While one is, the
    kernel's own handler is in place: an interrupt stops that cell first.)
    """
    loop = getattr(getattr(get_ipython(), "kernel", None), "io_loop", None)
    before = []

    def listen():
        before.append(signal.signal(signal.SIGINT, lambda *_: control.request_stop()))

    def restore():
        signal.signal(signal.SIGINT, before.pop())

    if loop is None:  # no notebook
        yield
        return
    loop.add_callback(listen)
    try:
        yield
    finally:
        loop.add_callback(restore)


def _field(name, value):
    options = {"description": name.lower().replace("_", " "), "style": {"description_width": "8em"}}
    if name == "AUGMENTATION":
        presets = list(PRESETS.items())
        if value not in PRESETS.values():
            presets.insert(0, ("as above", value))
        return widgets.Dropdown(options=presets, value=value, **options)
    # Text, not numbers: a field for numbers makes 37 of 3.7, and says nothing.
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return widgets.Text(value=text, **options)


def _value(typed):
    """What a field holds as a Python value; text that is none is left to `validate`."""
    if not isinstance(typed, str):
        return typed
    try:
        return ast.literal_eval(typed.strip())
    except (ValueError, SyntaxError):
        return typed


def _changes(chosen, hyperparameters):
    presets = {str(strengths): preset for preset, strengths in PRESETS.items()}
    changed = [
        f"{name.lower().replace('_', ' ')} {presets.get(str(value), value)}"
        for name, value in chosen.items()
        if value != hyperparameters[name]
    ]
    return ", ".join(changed) or "the same again"
