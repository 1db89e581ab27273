"""Write the published numbers and figures from the records of runs, so that no number is typed by hand."""

import json
import re
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from catsdogs import paths, plots, records, training

MODEL, SEEDS, PRETRAINED, FINE_TUNED = "cats_vs_dogs", "seeds_recipe", "pretrained", "pretrained_fine_tuned"
#: Ours on the recipe's photos, a seed of the random numbers each.
OURS_8000 = ("cats_vs_dogs_seed_8000", "cats_vs_dogs_seed_8000_1", "cats_vs_dogs_seed_8000_2")
#: Numbers of the recipe as many repositories share it, published by its authors; not measured here.
PUBLISHED_SEEDS = {"train": 0.89, "test": 0.7978}


#: What others published for photos of this archive: not measured here, and mostly on test photos of their own.
PUBLISHED_PRETRAINED = (
    {"what": "the winner of Kaggle's 2013 competition", "accuracy": "98.9%", "log loss": "–"},
    {"what": "Chollet's book, from 2,000 photos", "accuracy": "98.6%", "log loss": "–"},
    {"what": "Kaggle's best public ensembles", "accuracy": "–", "log loss": "0.039 to 0.041"},
)


def pretrained_rows(*found: dict) -> list[dict[str, str]]:
    """Rows to compare: those of the records of runs of notebook 06, ours trained from nothing, and what others published."""
    rows = [{"what": _networks(record), "accuracy": _measure(record, "accuracy", ".2%"), "log loss": _measure(record, "log_loss", ".4f"),
             "source": "measured here"} for record in found]
    own = records.read(MODEL) if (paths.models() / f"{MODEL}.json").exists() else None
    if own and "test" in own["metrics"]:
        rows.append({"what": "ours, trained from nothing (notebook 02)", "accuracy": _measure(own, "accuracy", ".2%"),
                     "log loss": _measure(own, "log_loss", ".4f"), "source": "measured here"})
    return rows + [row | {"source": "published"} for row in PUBLISHED_PRETRAINED]


#: The networks of notebook 05 in words. Their run records are called ``compare_`` and these keys.
NETWORKS = {
    "recipe": "the recipe's network, 32-32-128, at 64 pixels",
    "two_conv": "two convolutions (notebook 02)",
    "softmax": "two convolutions, two softmax units",
    "plain": "two convolutions, photos not varied",
    "strong": "two convolutions, photos varied strongly",
    "residual": "four residual blocks",
    "large": "nine residual blocks, wider",
}

#: The networks of notebook 05 that the documents show, in this order; what a reader tries besides is the reader's.
COMPARED = ("recipe", "two_conv", "softmax", "plain", "strong", "seed_1", "seed_2", "residual", "large")

#: What others published for networks trained from nothing on this archive: lowest and highest accuracy, and on what.
PUBLISHED_NETWORKS = {
    "keras.io, a small Xception at 180 pixels": (0.94, 0.96, "validation photos, best epoch; it has no test photos"),
    "Chollet's book, from 2,000 photos": (0.786, 0.786, "test photos of its own"),
    "Chollet's book, from 2,000 photos, varied": (0.839, 0.839, "test photos of its own"),
    "the best with code on Kaggle": (0.9764, 0.9764, "Kaggle's test photos"),
}


def network_label(key: str) -> str:
    """A network of notebook 05 in words: a key of `NETWORKS`, or ``seed_1`` for the two-conv network with another seed."""
    return NETWORKS.get(key) or f"two convolutions, seed {key.removeprefix('seed_')}"


def network_rows(found: dict[str, dict]) -> list[dict[str, str]]:
    """Rows to compare: those of `found`, run records of notebook 05 by key (see `network_label`), and what others published."""
    rows = []
    for key, record in found.items():
        measures = record["metrics"]
        percent = {split: _percent(measures[split]["accuracy"]) if split in measures else "–" for split in ("val", "test", "test_mirrored")}
        interval = f" ({_interval(measures['test']['accuracy'])})" if "test" in measures else ""
        rows.append({"network": network_label(key), "parameters": f"{record['parameters']:,}", "epochs": str(record["epochs"]),
                     "training time": training.duration(record["seconds"]), "validation accuracy": percent["val"],
                     "test accuracy (95% interval)": percent["test"] + interval, "mirror image averaged in": percent["test_mirrored"],
                     "source": "measured here"})
    for what, (low, high, photos) in PUBLISHED_NETWORKS.items():
        accuracy = " to ".join(f"{100 * value:g}%" for value in dict.fromkeys((low, high)))
        is_test = not photos.startswith("validation")
        rows.append({"network": what, "parameters": "–", "epochs": "–", "training time": "–",
                     "validation accuracy": "–" if is_test else accuracy, "test accuracy (95% interval)": accuracy if is_test else "–",
                     "mirror image averaged in": "–", "source": f"published, on {photos}"})
    return rows


def blocks() -> dict[str, str]:
    """The generated parts of README.md, models/README.md and benchmarks/RESULTS.md by name, as Markdown."""
    model, seeds, *ours = (records.read(name) for name in (MODEL, SEEDS, *OURS_8000))
    p, test, val = model["hyperparameters"], model["metrics"]["test"], model["metrics"]["val"]
    mirrored = model["metrics"]["test_mirrored"]
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
        f"| ours, the photo and its mirror image averaged | {data['train']:,} (`full`) | {model['parameters']:,} "
        f"| {_percent(mirrored['accuracy'])} ({_interval(mirrored['accuracy'])}) | the same |",
        _row("the same network in PyTorch (notebook 07)", records.read("pytorch")),
        _mean_row("ours, the same, on the recipe's photos", ours),
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
    bench = json.loads((paths.PROJECT / "benchmarks" / "bench.json").read_text(encoding="utf-8"))
    machine = (f"{bench['photos']:,} photos; {_device({'device': bench['machine']})}; Keras {bench['versions']['keras']}, "
               f"TensorFlow {bench['versions']['tensorflow']}.\n\n")
    chosen = [row for row in bench["rows"] if row["wanted"] and row["backend"] == "tensorflow"]
    size = p["IMAGE_SIZE"]
    rows = pretrained_rows(*(records.read(name) for name in (PRETRAINED, FINE_TUNED) if (paths.models() / f"{name}.json").exists()))
    pretrained = _table(rows, {name: f"{name} (95% interval)" for name in ("accuracy", "log loss")})
    return {"networks": _table(network_rows(_compared())), "pretrained": pretrained, "shape": f"(N, {size}, {size}, 3)", "decode": f"`catsdogs.decode.decode(photo, {size})`", "pixels": f"{size}×{size}",
            "speed": machine + speed_table(chosen), "bench": machine + speed_table(bench["rows"]), "summary": summary, "figures": figures, "results": results, "numbers": numbers, "facts": facts, "recipe": recipe,
            "calibration": _calibration(model), "exports": _exports(model),
            "serve": serve_table(json.loads((paths.PROJECT / "benchmarks" / "serve.json").read_text(encoding="utf-8"))),
            "time": f"about {training.duration(model['seconds'])} on {_device(model)}"}


def speed_table(rows: list[dict]) -> str:
    """The rows of ``benchmarks/bench.json`` as a Markdown table."""
    lines = ["| what | backend | ours | peer | ours is better by | wanted | the peer |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        peer = "–" if row["peer"] is None else f"{_number(row['peer'])} {row['unit']}"
        times = "–" if row["times"] is None else f"**{row['times']:.2g}×**"
        wanted = "" if row["wanted"] is None else f"{row['wanted']:.2g}×"
        lines.append(f"| {row['what']} | {row['backend']} | {_number(row['ours'])} {row['unit']} | {peer} | {times} "
                     f"| {wanted} | {row['against']} |")
    return "\n".join(lines)


def serve_table(result: dict) -> str:
    """``benchmarks/serve.json`` as Markdown."""
    photos = "photos in original size" if result["photos"] == "originals" else "drawn pictures"
    lines = [f"{_device({'device': result['machine']})}; {photos}.", "",
             "| clients at a time | ours | Flask and `model.predict` | ours is better by | p50, p99: ours | theirs |", "|---|---|---|---|---|---|"]
    for row in result["loads"]:
        ours, peer = row["ours"], row["peer"]
        spans = [f"{one['p50'] * 1e3:.0f}, {one['p99'] * 1e3:.0f} ms" for one in (ours, peer)]
        lines.append(f"| {row['clients']} | {_number(ours['photos_a_second'])} photos/s | {_number(peer['photos_a_second'])} photos/s "
                     f"| **{ours['photos_a_second'] / peer['photos_a_second']:.2g}×** | {spans[0]} | {spans[1]} |")
    first, last = result["memory"][0] / 1e6, result["memory"][-1] / 1e6
    return "\n".join([*lines, "", f"Ready {result['ready']['ours']:.2g} s after its start (the other: {result['ready']['peer']:.2g} s). "
                       f"Memory before and after {result['requests']:,} requests: {first:.0f} and {last:.0f} MB."])


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


def _calibration(record):
    found = record["calibration"]
    return (f"A certainty is what the model says, with its logit divided by {found['temperature']:.3f}, the temperature that fits "
            f"{found['fitted_on']:,} validation photos best. On the test photos that takes the calibration error from "
            f"{found['test_error_before']:.4f} to {found['test_error']:.4f}. Where the certainty is below {found['unsure_below']:.0%}, the "
            f"answer is \"unsure\": so for {found['unsure']:.1%} of the test photos, of which the more likely answer would be right for "
            f"{found['accuracy_unsure']:.1%}; of the others, {found['accuracy_sure']:.1%} are right.")


def _exports(record):
    lines = ["| file | size | probabilities differ by at most | the same answer, cat or dog |", "|---|---|---|---|"]
    for name, found in record["exports"].items():
        lines.append(f"| `{name}` | {found['bytes'] / 1e6:.2f} MB | {found['largest_difference']:.2g} | {found['same_answer']:.2%} |")
    return "\n".join(lines)


def _compared():
    """The records of notebook 05's networks that are here, by key. The default network's is notebook 02's own run."""
    names = {key: MODEL if key == "two_conv" else f"compare_{key}" for key in COMPARED}
    return {key: records.read(name) for key, name in names.items() if (paths.models() / f"{name}.json").exists()}


def _table(rows, titles={}):
    header = [titles.get(name, name) if name != "source" else "" for name in rows[0]]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row.values())} |" for row in rows)])


def _documents():
    return [paths.PROJECT / name for name in ("README.md", "models/README.md", "benchmarks/RESULTS.md")]


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


def _mean_row(label, found):
    accuracies = [record["metrics"]["test"]["accuracy"]["value"] for record in found]
    seconds = statistics.mean(record["seconds"] for record in found)
    return (f"| {label}, mean of {len(found)} seeds | {found[0]['data']['photos']['train']:,} (`{found[0]['data']['protocol']}`) "
            f"| {found[0]['parameters']:,} | {statistics.mean(accuracies):.2%} "
            f"(the seeds: {', '.join(f'{accuracy:.1%}' for accuracy in accuracies)}) | {training.duration(seconds)} |")


def _networks(record):
    p = record["hyperparameters"]
    networks = " and ".join(f"{network} at {size} pixels" for network, size in p["NETWORKS"].items())
    head = f"a head on {networks}{', mirrored too' if p['MIRRORED'] else ''}"
    return f"{p['ANSWER']}: {head}, and {p['FINE_TUNE']} fine-tuned (notebook 06)" if p.get("FINE_TUNE") else f"{head} (notebook 06)"


def _measure(record, measure, form):
    found = record["metrics"]["test"][measure]
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(measure):
    return f"{measure['value']:.2%}"


def _interval(measure):
    return f"{measure['low']:.1%} to {measure['high']:.1%}"


def _value(measure):
    return f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})"


def _device(record):
    return record["device"].replace("CPU, ", "a CPU with ")
