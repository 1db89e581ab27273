"""Write the published numbers and figures from the records of runs, so that no number is typed by hand."""

import json
import re
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from catsdogs import paths
from catsdogs.analysis import compare, plots
from catsdogs.text import duration
from catsdogs.training import records

MODEL, BASELINE, PRETRAINED, FINE_TUNED = (
    "cats_vs_dogs",
    "baseline_8000",
    "pretrained",
    "pretrained_fine_tuned",
)
#: Ours on the recipe's photos, a seed of the random numbers each.
OURS_8000 = ("cats_vs_dogs_8000_seed_0", "cats_vs_dogs_8000_seed_1", "cats_vs_dogs_8000_seed_2")
#: Numbers of the recipe as many repositories share it, published by its authors; not measured here.
PUBLISHED_BASELINE = {"train": 0.89, "test": 0.7978}

#: The networks of notebook 05 that the documents show, in this order; what a reader tries besides is the reader's.
COMPARED = (
    "baseline",
    "two_conv",
    "softmax",
    "no_augmentation",
    "strong_augmentation",
    "seed_1",
    "seed_2",
    "residual",
    "large",
)


def blocks() -> dict[str, str]:
    """The generated parts of README.md, models/README.md and benchmarks/RESULTS.md by name, as Markdown."""
    model, baseline, *ours = (records.read(name) for name in (MODEL, BASELINE, *OURS_8000))
    p, test, val = model["hyperparameters"], model["metrics"]["test"], model["metrics"]["val"]
    mirrored = model["metrics"]["test_tta"]
    data, versions = model["data"]["photos"], model["versions"]
    summary = (
        f"**{compare.percent(test['accuracy'])} of {test['photos']:,} test photos right** (95% interval {compare.interval(test['accuracy'])}), "
        f"photos that nothing was trained on or chosen by, after {model['epochs']} epochs in "
        f"{duration(model['seconds'])} on {_device(model)}."
    )
    # Side by side, which Markdown alone cannot do.
    figures = (
        f'<img src="{{folder}}curves.png" width="66%" alt="Loss and accuracy over {model["epochs"]} epochs; '
        f'epoch {model["best_epoch"]} was kept">\n'
        f'<img src="{{folder}}confusion_matrix.png" width="31%" alt="Confusion matrix of {test["photos"]:,} test photos">'
    )
    results = "\n".join(
        [
            "| network | photos to train on | parameters | test accuracy (95% interval) | training time |",
            "|---|---|---|---|---|",
            f"| **ours**, the default of notebook 02 | {data['train']:,} (`full`) | {model['parameters']:,} "
            f"| **{compare.percent(test['accuracy'])}** ({compare.interval(test['accuracy'])}) | {duration(model['seconds'])} |",
            f"| ours, the photo and its mirror image averaged | {data['train']:,} (`full`) | {model['parameters']:,} "
            f"| {compare.percent(mirrored['accuracy'])} ({compare.interval(mirrored['accuracy'])}) | the same |",
            _row("the same network in PyTorch (notebook 07)", records.read("pytorch")),
            _mean_row("ours, the same, on the recipe's photos", ours),
            _row("the recipe many repositories share, as we ran it", baseline),
            f"| the same recipe, as published (not measured here) | 8,000 | – | {PUBLISHED_BASELINE['test']:.2%} | – |",
        ]
    )
    numbers = "\n".join(
        [
            "| | validation | test |",
            "|---|---|---|",
            *(
                f"| {label} | {_value(val[key])} | {_value(test[key])} |"
                for label, key in (
                    ("accuracy", "accuracy"),
                    ("precision of “dog”", "precision"),
                    ("recall of “dog”", "recall"),
                    ("F1", "f1"),
                    ("area under ROC", "roc_auc"),
                    ("log loss", "log_loss"),
                    ("Brier score", "brier"),
                    ("calibration error", "calibration_error"),
                )
            ),
        ]
    )
    facts = "\n".join(
        [
            f"- trained {model['finished'][:10]} on {_device(model)}, Keras {versions['keras']} on {model['backend']}, "
            f"Python {model['python']}, in {duration(model['seconds'])}",
            f"- {model['parameters']:,} parameters; epoch {model['best_epoch']} of {model['epochs']} was kept, the one of lowest validation loss",
            f"- photos: {data['train']:,} to train, {data['val']:,} to validate, {data['test']:,} to test, "
            f"split `{model['data']['split']}`, fingerprint `{model['data']['fingerprint']}`",
            "- hyperparameters: " + ", ".join(f"`{key}={value!r}`" for key, value in p.items()),
        ]
    )
    recipe = (
        f"The recipe is published at {PUBLISHED_BASELINE['train']:.0%} training and {PUBLISHED_BASELINE['test']:.2%} test accuracy. "
        f"As we ran it, on {baseline['data']['photos']['train']:,} of its 8,000 photos (the others validate), its last epoch is at "
        f"{baseline['history']['accuracy'][-1]:.1%} training, {baseline['metrics']['val']['accuracy']['value']:.1%} validation and "
        f"{compare.percent(baseline['metrics']['test']['accuracy'])} test accuracy."
    )
    bench = json.loads((paths.PROJECT / "benchmarks" / "bench.json").read_text(encoding="utf-8"))
    machine = (
        f"{bench['photos']:,} photos; {_device({'device': bench['machine']})}; Keras {bench['versions']['keras']}, "
        f"TensorFlow {bench['versions']['tensorflow']}.\n\n"
    )
    chosen = [row for row in bench["rows"] if row["target"] and row["backend"] == "tensorflow"]
    size = p["IMAGE_SIZE"]
    rows = compare.pretrained_rows(
        *(
            records.read(name)
            for name in (PRETRAINED, FINE_TUNED)
            if (paths.models() / f"{name}.json").exists()
        ),
        scratch=model,
    )
    pretrained = _table(rows, {name: f"{name} (95% interval)" for name in ("accuracy", "log loss")})
    return {
        "networks": _table(compare.network_rows(_compared())),
        "pretrained": pretrained,
        "shape": f"(N, {size}, {size}, 3)",
        "decode": f"`catsdogs.data.decode.decode(photo, {size})`",
        "pixels": f"{size}×{size}",
        "speed": machine + speed_table(chosen),
        "bench": machine + speed_table(bench["rows"]),
        "summary": summary,
        "figures": figures,
        "results": results,
        "numbers": numbers,
        "facts": facts,
        "recipe": recipe,
        "calibration": _calibration(model),
        "exports": _exports(model),
        "serve": serve_table(
            json.loads((paths.PROJECT / "benchmarks" / "serve.json").read_text(encoding="utf-8"))
        ),
        "time": f"about {duration(model['seconds'])} on {_device(model)}",
    }


def speed_table(rows: list[dict]) -> str:
    """The rows of ``benchmarks/bench.json`` as a Markdown table."""
    lines = [
        "| what | backend | ours | peer | ours is better by | wanted | the peer |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer = "–" if row["baseline"] is None else f"{_number(row['baseline'])} {row['unit']}"
        times = "–" if row["speedup"] is None else f"**{row['speedup']:.2g}×**"
        wanted = "" if row["target"] is None else f"{row['target']:.2g}×"
        lines.append(
            f"| {row['what']} | {row['backend']} | {_number(row['ours'])} {row['unit']} | {peer} | {times} "
            f"| {wanted} | {row['against']} |"
        )
    return "\n".join(lines)


def serve_table(result: dict) -> str:
    """``benchmarks/serve.json`` as Markdown."""
    photos = "photos in original size" if result["photos"] == "originals" else "synthetic photos"
    lines = [
        f"{_device({'device': result['machine']})}; {photos}.",
        "",
        "| clients at a time | ours | Flask and `model.predict` | ours is better by | p50, p99: ours | theirs |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["loads"]:
        ours, peer = row["ours"], row["baseline"]
        spans = [f"{one['p50'] * 1e3:.0f}, {one['p99'] * 1e3:.0f} ms" for one in (ours, peer)]
        lines.append(
            f"| {row['clients']} | {_number(ours['photos_per_second'])} photos/s | {_number(peer['photos_per_second'])} photos/s "
            f"| **{ours['photos_per_second'] / peer['photos_per_second']:.2g}×** | {spans[0]} | {spans[1]} |"
        )
    first, last = result["memory"][0] / 1e6, result["memory"][-1] / 1e6
    return "\n".join(
        [
            *lines,
            "",
            f"Ready {result['ready']['ours']:.2g} s after its start (the other: {result['ready']['baseline']:.2g} s). "
            f"Memory before and after {result['requests']:,} requests: {first:.0f} and {last:.0f} MB.",
        ]
    )


def write() -> None:
    """Bring the documents and the figures up to date with the records."""
    for document in _documents():
        document.write_text(_filled(document), encoding="utf-8")
    for path, figure in _figures().items():
        figure.savefig(path, metadata={"model_sha256": records.read(MODEL)["model_sha256"]})
        plots.close(figure)


def differences() -> list[str]:
    """What is out of date, a line each: documents whose numbers and figures whose model are not the record's."""
    found = [
        f"{document.name}: the numbers differ from the run records"
        for document in _documents()
        if document.read_text(encoding="utf-8") != _filled(document)
    ]
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
        print(f"{line}; run: python -m tools.report", file=sys.stderr)
    return bool(found)


def _calibration(record):
    found = record["calibration"]
    return (
        f"A confidence is what the model says, with its logit divided by {found['temperature']:.3f}, the temperature that fits "
        f"{found['fitted_on']:,} validation photos best. On the test photos that takes the calibration error from "
        f"{found['test_calibration_error_before']:.4f} to {found['test_calibration_error']:.4f}. Where the confidence is below {found['unsure_below']:.0%}, the "
        f'answer is "unsure": so for {found["unsure"]:.1%} of the test photos, of which the more likely answer would be right for '
        f"{found['accuracy_unsure']:.1%}; of the others, {found['accuracy_confident']:.1%} are right."
    )


def _exports(record):
    lines = [
        "| file | size | probabilities differ by at most | the same answer, cat or dog |",
        "|---|---|---|---|",
    ]
    for name, found in record["exports"].items():
        lines.append(
            f"| `{name}` | {found['bytes'] / 1e6:.2f} MB | {found['largest_difference']:.2g} | {found['same_label']:.2%} |"
        )
    return "\n".join(lines)


def _compared():
    """The records of notebook 05's networks that are here, by key. The default network's is notebook 02's own run."""
    names = {key: MODEL if key == "two_conv" else f"compare_{key}" for key in COMPARED}
    return {
        key: records.read(name)
        for key, name in names.items()
        if (paths.models() / f"{name}.json").exists()
    }


def _table(rows, titles={}):
    header = [titles.get(name, name) if name != "source" else "" for name in rows[0]]
    return "\n".join(
        [
            f"| {' | '.join(header)} |",
            "|" + "---|" * len(header),
            *(f"| {' | '.join(row.values())} |" for row in rows),
        ]
    )


def _documents():
    return [
        paths.PROJECT / name for name in ("README.md", "models/README.md", "benchmarks/RESULTS.md")
    ]


def _filled(document: Path) -> str:
    text, found = document.read_text(encoding="utf-8"), blocks()
    folder = "models/" if document.parent == paths.PROJECT else ""

    def fill(match):
        margin = "\n" if "\n" in match[0] else ""  # a line of its own, or within one
        return f"{match[1]}{margin}{found[match[2]].replace('{folder}', folder)}{margin}{match[3]}"

    return re.sub(
        r"(<!-- from the run record: (\w+) -->).*?(<!-- end -->)", fill, text, flags=re.DOTALL
    )


def _figures() -> dict[Path, Figure]:
    record = records.read(MODEL)
    test = record["metrics"]["test"]
    return {
        paths.models() / "curves.png": plots.curves(
            record["history"], best_epoch=record["best_epoch"]
        ),
        paths.models() / "confusion_matrix.png": plots.confusion_matrix(
            test["confusion"],
            title=f"{test['photos']:,} test photos, {compare.percent(test['accuracy'])} right",
        ),
    }


def _row(label, record):
    accuracy = record["metrics"]["test"]["accuracy"]
    return (
        f"| {label} | {record['data']['photos']['train']:,} (`{record['data']['split']}`) | {record['parameters']:,} "
        f"| {compare.percent(accuracy)} ({compare.interval(accuracy)}) | {duration(record['seconds'])} |"
    )


def _mean_row(label, found):
    accuracies = [record["metrics"]["test"]["accuracy"]["value"] for record in found]
    seconds = statistics.mean(record["seconds"] for record in found)
    return (
        f"| {label}, mean of {len(found)} seeds | {found[0]['data']['photos']['train']:,} (`{found[0]['data']['split']}`) "
        f"| {found[0]['parameters']:,} | {statistics.mean(accuracies):.2%} "
        f"(the seeds: {', '.join(f'{accuracy:.1%}' for accuracy in accuracies)}) | {duration(seconds)} |"
    )


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _value(measure):
    if "low" not in measure:  # the calibration error has no interval
        return f"{measure['value']:.4f}"
    return f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})"


def _device(record):
    return record["device"].replace("CPU, ", "a CPU with ")


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
