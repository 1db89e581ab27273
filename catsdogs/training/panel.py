"""A panel in the notebook: change hyperparameters, press Train, compare the curves."""

from collections.abc import Callable

import ipywidgets as widgets

from catsdogs.analysis import plots
from catsdogs.networks.augment import PRESETS
from catsdogs.training.live import live_in


def training_panel(
    train: Callable[[dict], dict], hyperparameters: dict, history: dict | None = None
) -> widgets.Widget:
    """A widget with a field for each hyperparameter that needs no photos to be loaded again.

    `train` takes a dictionary of all hyperparameters and returns the history of the run, as Keras
    keeps it. `hyperparameters` are the initial values; `history` is a run to compare with. Nothing
    is trained until Train is pressed.
    """
    fields = {
        "EPOCHS": widgets.BoundedIntText(min=1, max=500),
        "BATCH_SIZE": widgets.Dropdown(options=[16, 32, 64, 128, 256]),
        "LEARNING_RATE": widgets.BoundedFloatText(min=1e-6, max=1.0, step=1e-4),
        "DENSE_UNITS": widgets.BoundedIntText(min=1, max=4096),
        "DROPOUT": widgets.FloatSlider(min=0, max=0.9, step=0.05),
        "AUGMENTATION": widgets.Dropdown(options=list(PRESETS.items())),
    }
    for name, field in fields.items():
        value = hyperparameters[name]
        if name == "AUGMENTATION" and value not in PRESETS.values():
            field.options = [("as above", value), *field.options]
        elif (
            isinstance(field, widgets.Dropdown)
            and name != "AUGMENTATION"
            and value not in field.options
        ):
            field.options = [value, *field.options]
        field.value = value
        field.description = name.lower().replace("_", " ")
        field.style.description_width = "8em"
    filters = [
        widgets.BoundedIntText(
            min=1,
            max=1024,
            value=value,
            description=f"filters {index}",
            style={"description_width": "8em"},
        )
        for index, value in enumerate(hyperparameters["FILTERS"], 1)
    ]
    button = widgets.Button(description="Train", button_style="primary", icon="play")
    # Three widgets, not one Output: JupyterLab does not update in place what an Output shows.
    printed, line, picture = (
        widgets.Output(),
        widgets.HTML(),
        widgets.Image(layout={"display": "none"}),
    )
    picture.observe(lambda _: setattr(picture.layout, "display", None), "value")
    runs = {"the run above": history} if history else {}

    def on_click(_):
        chosen = {
            **hyperparameters,
            **{name: field.value for name, field in fields.items()},
            "FILTERS": tuple(field.value for field in filters),
        }
        button.disabled = True
        try:
            printed.clear_output()
            with printed, live_in(line, picture):
                found = train(chosen)
            picture.value = plots.to_png(plots.curves(found, others=runs))
            runs[_label(chosen, hyperparameters, len(runs))] = found
        except (ValueError, KeyboardInterrupt) as error:
            with printed:
                print(f"Not trained: {error or 'interrupted'}")
        finally:
            button.disabled = False

    button.on_click(on_click)
    controls = widgets.GridBox(
        [*fields.values(), *filters], layout={"grid_template_columns": "repeat(2, 24em)"}
    )
    return widgets.VBox([controls, button, printed, line, picture])


def _label(chosen, hyperparameters, number):
    presets = {str(strengths): preset for preset, strengths in PRESETS.items()}
    changed = [
        f"{name.lower()} {presets.get(str(value), value)}"
        for name, value in chosen.items()
        if value != hyperparameters[name]
    ]
    return f"run {number + 1}: {', '.join(changed) or 'the same again'}"
