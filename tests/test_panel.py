"""The panel of notebook 02: it trains, stops, names mistakes and compares runs."""

import threading
import time
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest

from catsdogs.analysis import plots
from catsdogs.networks.augment import PRESETS
from catsdogs.training import control, fit, panel

P = fit.TWO_CONV | dict(SPLIT="full", IMAGE_SIZE=56, EPOCHS=3, FILTERS=(4, 8), DENSE_UNITS=8)
P |= dict(SEED=0, PRECISION="float32")


def finished(epochs=1, accuracy=0.6):
    history = dict.fromkeys(("loss", "accuracy", "val_loss"), [0.7] * epochs)
    history |= {"val_accuracy": [accuracy] * epochs}
    return SimpleNamespace(history=history, best_epoch=epochs, seconds=12.0, interrupted=False)


def parts(box):
    """The widgets of the panel: fields and buttons by their description, others by name."""
    controls, buttons, message, _, picture, table = box.children
    found = {child.description: child for child in (*controls.children, *buttons.children)}
    return found | {"message": message, "picture": picture, "table": table}


def press(found):
    """Press Train, and wait until the run has ended."""
    found["Train"].click()
    until(lambda: not found["Train"].disabled)


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def drawn(monkeypatch):
    """What is given to `plots.curves` for each comparison."""
    calls = []
    curves = plots.curves
    monkeypatch.setattr(
        plots, "curves", lambda *args, **options: calls.append(options) or curves(*args, **options)
    )
    return calls


def test_it_trains_with_what_was_typed_and_compares(drawn):
    tried = []
    plt.close("all")
    found = parts(
        panel.training_panel(lambda p: tried.append(p) or finished(2), P, finished(5, 0.9))
    )
    assert tried == []
    found["epochs"].value, found["filters"].value = " 7", "(4, 16)"
    found["augmentation"].value = PRESETS["none"]
    press(found)
    assert tried == [P | dict(EPOCHS=7, FILTERS=(4, 16), AUGMENTATION=PRESETS["none"])]
    assert drawn[0]["epochs"] == 5 and drawn[0]["best_epoch"] == 2
    assert list(drawn[0]["others"]) == ["1: the run above"]
    assert not plt.get_fignums()  # a figure of pyplot would be shown below the next cell
    assert bytes(found["picture"].value).startswith(b"\x89PNG")
    for text in ("the run above", "epochs 7", "filters (4, 16)", "augmentation none", "90.0%"):
        assert text in found["table"].value
    assert "60.0%" in found["table"].value and "12 seconds" in found["table"].value
    press(found)
    assert len(tried) == 2 and len(drawn[1]["others"]) == 2


def test_mistakes_are_sentences_and_nothing_typed_is_changed():
    tried = []
    found = parts(panel.training_panel(lambda p: tried.append(p) or finished(), P))
    typed = {"epochs": "3.7", "learning rate": "0,001", "filters": "64", "dropout": "<b>"}
    for name, value in typed.items():
        found[name].value = value
    press(found)
    lines = found["message"].value.split("<br>")
    assert tried == [] and [line.split()[0] for line in lines] == [
        "EPOCHS", "LEARNING_RATE", "FILTERS", "DROPOUT",
    ]  # fmt: skip
    assert "EPOCHS is 3.7: expected a whole number" in lines[0] and "&lt;b&gt;" in lines[3]
    assert {name: found[name].value for name in typed} == typed


def test_stop_stops_and_a_run_without_an_epoch_is_not_compared():
    begun = threading.Event()

    def train(p):
        begun.set()
        until(control.stop_requested)
        return SimpleNamespace(history={}, best_epoch=0, seconds=1.0, interrupted=True)

    found = parts(panel.training_panel(train, P))
    found["Train"].click()
    assert begun.wait(20) and found["Train"].disabled and not found["Stop"].disabled
    found["Stop"].click()
    until(lambda: not found["Train"].disabled)
    assert found["Stop"].disabled and found["table"].value == ""
    assert "Stopped after 0 of 3 epochs" in found["message"].value


def test_a_run_that_was_stopped_and_resumed_is_one_row():
    runs = [finished(), finished()]
    runs[0].interrupted = True
    found = parts(panel.training_panel(lambda p: runs.pop(0), P))
    press(found)
    assert "(stopped)" in found["table"].value
    press(found)
    assert "(stopped)" not in found["table"].value and found["table"].value.count("<tr>") == 1


def test_it_does_not_train_while_a_cell_does():
    tried = []
    found = parts(panel.training_panel(lambda p: tried.append(p) or finished(), P))
    with control.one_training():
        press(found)
    assert tried == [] and "Another run is being trained" in found["message"].value
    press(found)
    assert len(tried) == 1 and found["message"].value == ""


@pytest.mark.parametrize(
    "error",
    [control.DivergedError(2), ValueError("too large"), KeyError("a")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_in_training_is_said_in_one_line(error):
    def fail(p):
        raise error

    found = parts(panel.training_panel(fail, P))
    press(found)
    assert str(error)[:9] in found["message"].value.replace("&#x27;", "'")
