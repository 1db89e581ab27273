"""Write the published numbers and figures from the run records, so that no number is typed by hand."""

import re
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from catsdogs import paths, plots, records, training

MODEL, OURS_8000, SEEDS = "cats_vs_dogs", "cats_vs_dogs_seed_8000", "seeds_recipe"
#: Numbers of the recipe as many repositories share it, published by its authors; not measured here.
PUBLISHED_SEEDS = {"train": 0.89, "test": 0.7978}


def blocks() -> dict[str, str]:
    """The generated parts of README.md and models/README.md by name, as Markdown."""
    model, ours, seeds = (records.read(name) for name in (MODEL, OURS_8000, SEEDS))
    p, test, val = model["hyperparameters"], model["metrics"]["test"], model["metrics"]["val"]
    data, versions = model["data"]["photos"], model["versions"]
    summary = (
        f"**{_percent(test['accuracy'])} of {test['photos']:,} test photos right** (95% interval {_interval(test['accuracy'])}), "
        f"photos that nothing was trained on or chosen by, after {model['epochs']} epochs in "
        f"{training.duration(model['seconds'])} on {_device(model)}."
    )
    # Side by side, which Markdown alone cannot do.
    figures = (
        f'<img src="{{folder}}curves.png" width="66%" alt="Loss and accuracy over {model["epochs"]} epochs; '
        f'epoch {model["best_epoch"]} was kept">\n'
        f'<img src="{{folder}}confusion_matrix.png" width="31%" alt="Confusion matrix of {test["photos"]:,} test photos">'
    )
    results = "\n".join([
        "| network | photos to train on | parameters | test accuracy (95% interval) | training time |",
        "|---|---|---|---|---|",
        f"| **ours**, the default of notebook 02 | {data['train']:,} (`full`) | {model['parameters']:,} "
        f"| **{_percent(test['accuracy'])}** ({_interval(test['accuracy'])}) | {training.duration(model['seconds'])} |",
        _row("ours, the same, on the recipe's photos", ours),
        _row("the recipe many repositories share, as we ran it", seeds),
        f"| the same recipe, as published (not measured here) | 8,000 | – | {PUBLISHED_SEEDS['test']:.2%} | – |",
    ])
    numbers = "\n".join([
        "| | validation | test |", "|---|---|---|",
        *(f"| {label} | {_value(val[key])} | {_value(test[key])} |" for label, key in (
            ("accuracy", "accuracy"), ("precision of “dog”", "precision"), ("recall of “dog”", "recall"), ("F1", "f1"),
            ("area under ROC", "roc_auc"), ("log loss", "log_loss"), ("Brier score", "brier"),
            ("calibration error", "calibration_error"))),
    ])
    facts = "\n".join([
        f"- trained {model['finished'][:10]} on {_device(model)}, Keras {versions['keras']} on {model['backend']}, "
        f"Python {model['python']}, in {training.duration(model['seconds'])}",
        f"- {model['parameters']:,} parameters; epoch {model['best_epoch']} of {model['epochs']} was kept, the one of lowest validation loss",
        f"- photos: {data['train']:,} to train, {data['val']:,} to validate, {data['test']:,} to test, "
        f"protocol `{model['data']['protocol']}`, fingerprint `{model['data']['fingerprint']}`",
        "- hyperparameters: " + ", ".join(f"`{key}={value!r}`" for key, value in p.items()),
    ])
    recipe = (
        f"The recipe is published at {PUBLISHED_SEEDS['train']:.0%} training and {PUBLISHED_SEEDS['test']:.2%} test accuracy. "
        f"As we ran it, on {seeds['data']['photos']['train']:,} of its 8,000 photos (the others validate), its last epoch is at "
        f"{seeds['history']['accuracy'][-1]:.1%} training, {seeds['metrics']['val']['accuracy']['value']:.1%} validation and "
        f"{_percent(seeds['metrics']['test']['accuracy'])} test accuracy."
    )
    return {"summary": summary, "figures": figures, "results": results, "numbers": numbers, "facts": facts, "recipe": recipe,
            "time": f"about {training.duration(model['seconds'])} on {_device(model)}"}


def write() -> None:
    """Bring the documents and the figures up to date with the records."""
    for document in _documents():
        document.write_text(_filled(document), encoding="utf-8")
    for path, figure in _figures().items():
        figure.savefig(path, metadata={"model_sha256": records.read(MODEL)["model_sha256"]})
        plots.close(figure)


def differences() -> list[str]:
    """What is out of date, a line each: documents whose numbers and figures whose model are not the record's."""
    found = [f"{document.name}: the numbers differ from the run records" for document in _documents()
             if document.read_text(encoding="utf-8") != _filled(document)]
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(paths.models() / name) as image:
            if image.info.get("model_sha256") != records.read(MODEL)["model_sha256"]:
                found.append(f"{name}: drawn for another model")
    return found


def main(check: bool) -> int:
    """Write, or only check; returns the exit status."""
    if not check:
        write()
        return 0
    found = differences()
    for line in found:
        print(f"{line}; run: python -m catsdogs report", file=sys.stderr)
    return bool(found)


def _documents():
    return [paths.PROJECT / "README.md", paths.PROJECT / "models" / "README.md"]


def _filled(document: Path) -> str:
    text, found = document.read_text(encoding="utf-8"), blocks()
    folder = "models/" if document.parent == paths.PROJECT else ""

    def fill(match):
        margin = "\n" if "\n" in match[0] else ""  # a line of its own, or within one
        return f"{match[1]}{margin}{found[match[2]].format(folder=folder)}{margin}{match[3]}"

    return re.sub(r"(<!-- from the run record: (\w+) -->).*?(<!-- end -->)", fill, text, flags=re.DOTALL)


def _figures() -> dict[Path, Figure]:
    record = records.read(MODEL)
    test = record["metrics"]["test"]
    return {
        paths.models() / "curves.png": plots.curves(record["history"], best_epoch=record["best_epoch"]),
        paths.models() / "confusion_matrix.png": plots.confusion_matrix(
            test["confusion"], title=f"{test['photos']:,} test photos, {_percent(test['accuracy'])} right"),
    }


def _row(label, record):
    accuracy = record["metrics"]["test"]["accuracy"]
    return (f"| {label} | {record['data']['photos']['train']:,} (`{record['data']['protocol']}`) | {record['parameters']:,} "
            f"| {_percent(accuracy)} ({_interval(accuracy)}) | {training.duration(record['seconds'])} |")


def _percent(measure):
    return f"{measure['value']:.2%}"


def _interval(measure):
    return f"{measure['low']:.1%} to {measure['high']:.1%}"


def _value(measure):
    return f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})"


def _device(record):
    return record["device"].replace("CPU, ", "a CPU with ")
