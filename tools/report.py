"""Write the published numbers and figures from the run records: ``make report``.

    python -m tools.report [--check]

README.md, models/README.md and benchmarks/RESULTS.md hold blocks between the comments
``<!-- from the run record: NAME -->`` and ``<!-- end -->``. Each is filled from the records in
``models/`` and the results in ``benchmarks/``, so that no number is typed by hand. ``--check``
writes nothing, and exits with status 1 if a number or a figure is out of date.
"""

import json
import os
import re
import statistics
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from catsdogs import files, paths
from catsdogs.analysis import compare, plots
from catsdogs.text import duration
from catsdogs.training import records

MODEL, BASELINE, PRETRAINED, FINE_TUNED = (
    paths.DEFAULT_MODEL,
    "baseline-8000",
    "pretrained",
    "pretrained-fine-tuned",
)
#: Our network on the baseline's photos, one record per seed.
OURS_8000 = tuple(f"{MODEL}-8000-seed-{seed}" for seed in range(3))
#: Where the figures of the documents are.
FIGURES = paths.included() / MODEL
#: Training and test accuracy that the baseline is published with; not measured here.
PUBLISHED_BASELINE = {"train": 0.89, "test": 0.7978}
#: Where it is published, and on what.
BASELINE_SOURCE = "a repository's README, 4,000 + 4,000 training photos, 25 epochs"

#: The networks of notebook 05 that the documents show, in this order. Any others that a reader
#: trains are the reader's own.
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

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}

#: Targets that were set before anything was measured. Those of the benchmark are in bench.json.
TARGETS = {
    "residual accuracy": 0.97,
    "residual seconds": 3600,
    "pretrained accuracy": 0.995,
    "pretrained log loss": 0.025,
    "service speedup at 64 clients": 10,
    "service p99 at 8 clients": 0.15,
    "service start": 1.0,
}

#: The measures of the model card by their keys in a record.
MEASURES = {
    "accuracy": "accuracy",
    "precision": "precision of “dog”",
    "recall": "recall of “dog”",
    "f1": "F1 score of “dog”",
    "roc_auc": "area under the ROC curve",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "expected calibration error (ECE)",
}


def blocks() -> dict[str, str]:
    """The generated parts of the documents, as Markdown, by name."""
    model, baseline = records.read(MODEL), records.read(BASELINE)
    bench, serve = (read_result(name) for name in ("bench", "serve"))
    test, size = model["metrics"]["test"], model["hyperparameters"]["IMAGE_SIZE"]
    took = f"{duration(model['seconds'])} on {_device(model['device'])}"
    figures = {
        "curves": f'<img src="{{folder}}curves.png" width="66%" alt="Loss and accuracy on the '
        f"training and validation sets over {model['epochs']} epochs; epoch {model['best_epoch']} "
        'was kept">',
        "confusion": '<img src="{folder}confusion_matrix.png" width="31%" alt="Confusion matrix '
        f'of {test["photos"]:,} test photos">',
    }
    return {
        "summary": f"**{_accuracy(test)}**, after {model['epochs']} epochs in {took}.\n\n"
        f"{figures['curves']}",
        "time": f"about {took}",
        "figures": "\n".join(figures.values()),
        "results": results_table(),
        "baseline": _baseline_text(baseline),
        "targets": targets_table(bench, serve),
        "networks": _markdown(compare.network_rows(_compared())),
        "pretrained": pretrained_table(model),
        "machine": f"{bench['photos']:,} photos, {_device(bench['machine'])}, Keras "
        f"{bench['versions']['keras']}, TensorFlow {bench['versions']['tensorflow']}",
        **{
            f"bench_{name}": speed_table(_measured(bench, name))
            for name in ("time_to_accuracy", "reading", "waiting", "epoch", "memory")
        },
        "bench_peak": peak_table(_measured(bench, "step")),
        "bench_augmentation": augmentation_table(_measured(bench, "step")),
        "serve": serve_table(serve),
        "shape": f"(N, {size}, {size}, 3)",
        "decode": f"`catsdogs.data.decode.decode(photo, {size})`",
        "pixels": f"{size}×{size}",
        "numbers": measures_table(model["metrics"]),
        "facts": _facts(model),
        "calibration": _calibration(model),
        "exports": exports_table(model["exports"]),
    }


def results_table() -> str:
    """The README's table: test accuracies of this project, and of the baseline."""
    model, pytorch, baseline = (records.read(name) for name in (MODEL, "pytorch", BASELINE))
    head, tuned = records.read(PRETRAINED), records.read(FINE_TUNED)
    ours = [records.read(name) for name in OURS_8000]
    accuracies = [record["metrics"]["test"]["accuracy"]["value"] for record in ours]
    seconds = statistics.mean(record["seconds"] for record in ours)
    two_conv = "two convolutions (notebook 02), the included model"
    rows = [
        _result(two_conv, model, bold=True),
        _result("the same with test-time augmentation", model, subset="test_tta") | {"time": ""},
        _result("the same network in PyTorch (07)", pytorch),
        _result("ResNet-style, four residual blocks (05)", records.read("compare-residual")),
        _result("logistic regression on EfficientNet-Lite features (06)", head),
        _result("the same, averaged with a fine-tuned EfficientNet-Lite2 (06)", tuned),
        _result("two convolutions, mean of 3 seeds", ours[0])
        | {
            "accuracy": f"{statistics.mean(accuracies):.1%}",
            "interval": f"seeds: {', '.join(f'{100 * value:.1f}' for value in accuracies)}",
            "time": duration(seconds),
        },
        _result("baseline, measured here", baseline),
        {
            "network": f"baseline, as published ({BASELINE_SOURCE})",
            "photos": "8,000, its own split",
            "accuracy": f"{PUBLISHED_BASELINE['test']:.2%}",
            "interval": "–",
            "n": "–",
            "time": "–",
        },
    ]
    titles = {"photos": "trained on", "accuracy": "test accuracy", "interval": "95% CI"}
    return _markdown(rows, titles | {"time": "training time"})


def targets_table(bench: dict, serve: dict) -> str:
    """Every target, what was reached, and whether that meets it."""
    rows = []

    def add(question, measure, target, reached, met):
        rows.append(
            {
                "question": question,
                "measure": measure,
                "target": target,
                "reached": reached,
                "met": "yes" if met else "**no**",
            }
        )

    questions = {
        "time_to_accuracy": "time to accuracy",
        "reading": "reading",
        "epoch": "time per epoch",
        "memory": "memory",
    }
    for row in bench["rows"]:
        if not row["target"] or row["backend"] != "tensorflow":
            continue
        reached, target, met = row["speedup"], row["target"], row["speedup"] >= row["target"]
        dtype = row["what"].rpartition(", ")[2]
        if row["measurement"] != "step":
            question = questions[row["measurement"]]
            ratio = "reduction" if question == "memory" else "speedup"
            add(question, f"{ratio}: {row['what']}", f"{target:.2g}×", f"{reached:.2g}×", met)
        elif row["unit"] == "ms":
            name = f"cost of data augmentation, {dtype}"
            add("training step", name, f"≤ {1 / target - 1:.0%}", f"{1 / reached - 1:.0%}", met)
        else:
            name = f"share of peak FLOP/s, {dtype}"
            add("training step", name, f"{target:.0%}", f"{reached:.0%}", met)

    loads = {row["clients"]: row for row in serve["loads"]}
    rates = [loads[64][way]["photos_per_second"] for way in ("ours", "baseline")]
    speedup, target = rates[0] / rates[1], TARGETS["service speedup at 64 clients"]
    name = "throughput at 64 clients, speedup"
    add("serving", name, f"{target}×", f"{speedup:.2g}×", speedup >= target)
    p99, target = loads[8]["ours"]["p99"], TARGETS["service p99 at 8 clients"]
    name = "latency at 8 clients, 99th percentile"
    add("serving", name, f"≤ {1e3 * target:.0f} ms", f"{1e3 * p99:.0f} ms", p99 <= target)
    ready, target = serve["ready"]["ours"], TARGETS["service start"]
    add("serving", "time to start", f"≤ {target:.0f} s", f"{ready:.2g} s", ready <= target)

    record = records.read("compare-residual")
    accuracy, target = record["metrics"]["test"]["accuracy"], TARGETS["residual accuracy"]
    name, reached = "test accuracy of the ResNet-style network", compare.percent(accuracy)
    add("deeper networks", name, f"{target:.0%}", reached, accuracy["value"] >= target)
    name, limit = "its training time on 2 cores", TARGETS["residual seconds"]
    took = record["seconds"]
    add("deeper networks", name, f"≤ {duration(limit)}", duration(took), took <= limit)

    found = records.read(FINE_TUNED)["metrics"]["test"]
    accuracy, target = found["accuracy"], TARGETS["pretrained accuracy"]
    name, reached = "test accuracy, the best model", compare.percent(accuracy)
    add("pretrained network", name, f"{target:.1%}", reached, accuracy["value"] >= target)
    loss, target = found["log_loss"]["value"], TARGETS["pretrained log loss"]
    add("pretrained network", "its test log loss", f"≤ {target}", f"{loss:.4f}", loss <= target)
    return _markdown(rows)


def pretrained_table(scratch: dict) -> str:
    """Notebook 06's records, the network that was trained from scratch, and published numbers."""
    found = [records.read(name) for name in (PRETRAINED, FINE_TUNED) if records.exists(name)]
    titles = {name: f"test {name} (95% CI)" for name in ("accuracy", "log loss")}
    return _markdown(compare.pretrained_rows(*found, scratch=scratch), titles)


def speed_table(rows: list[dict]) -> str:
    """Rows of ``benchmarks/bench.json``: ours, the baseline, the speedup and its target."""
    return _markdown(
        [
            {
                "measurement": row["what"],
                "backend": BACKENDS[row["backend"]],
                "ours": _quantity(row["ours"], row["unit"]),
                "baseline": _quantity(row["baseline"], row["unit"]),
                "reduction" if row["unit"] == "MB" else "speedup": "–"
                if row["speedup"] is None
                else f"**{row['speedup']:.2g}×**",
                "target": "–" if row["target"] is None else f"{row['target']:.2g}×",
                "what the baseline is": row["against"],
            }
            for row in rows
        ]
    )


def peak_table(rows: list[dict]) -> str:
    """A training step's FLOP/s and their share of the measured peak, from ``bench.json``."""
    return _markdown(
        [
            {
                "backend": BACKENDS[row["backend"]],
                "precision": row["what"].rpartition(", ")[2],
                "training step": _quantity(row["ours"], row["unit"]),
                "peak": _quantity(row["baseline"], row["unit"]),
                "share of peak": f"**{row['speedup']:.0%}**",
                "target": f"{row['target']:.0%}",
            }
            for row in rows
            if row["unit"] == "GFLOP/s"
        ]
    )


def augmentation_table(rows: list[dict]) -> str:
    """The cost of data augmentation in a training step, from ``bench.json``."""
    return _markdown(
        [
            {
                "backend": BACKENDS[row["backend"]],
                "precision": row["what"].rpartition(", ")[2],
                "step with augmentation": _quantity(row["ours"], row["unit"]),
                "without": _quantity(row["baseline"], row["unit"]),
                "cost": f"**{1 / row['speedup'] - 1:.0%}**",
                "target": f"≤ {1 / row['target'] - 1:.0%}",
            }
            for row in rows
            if row["unit"] == "ms"
        ]
    )


def serve_table(result: dict) -> str:
    """``benchmarks/serve.json``: throughput and latency, the time to start, and memory."""
    rows = []
    for row in result["loads"]:
        ours, baseline = row["ours"], row["baseline"]
        speedup = ours["photos_per_second"] / baseline["photos_per_second"]
        rows.append(
            {
                "clients": str(row["clients"]),
                "ours": _quantity(ours["photos_per_second"], "photos/s"),
                "Flask and `model.predict`": _quantity(baseline["photos_per_second"], "photos/s"),
                "speedup": f"**{speedup:.2g}×**",
                "latency p50, p99": _latency(ours),
                "the baseline's": _latency(baseline),
            }
        )
    photos = "photos at original size" if result["photos"] == "originals" else "synthetic photos"
    first, last = (memory / 1e6 for memory in (result["memory"][0], result["memory"][-1]))
    return (
        f"{_device(result['machine'], capital=True)}; {photos}.\n\n{_markdown(rows)}\n\n"
        f"The service is ready {result['ready']['ours']:.2g} s after its start (the baseline: "
        f"{result['ready']['baseline']:.2g} s). Its memory before and after {result['requests']:,} "
        f"requests: {first:.0f} and {last:.0f} MB."
    )


def measures_table(metrics: dict) -> str:
    """Validation and test measures of a record, each with its 95% interval if it has one."""
    return _markdown(
        [
            {
                "measure": label,
                "validation set": _value(metrics["val"][key]),
                "test set": _value(metrics["test"][key]),
            }
            for key, label in MEASURES.items()
        ]
    )


def exports_table(exports: dict) -> str:
    """The model's other formats, compared with the Keras model on the test set."""
    return _markdown(
        [
            {
                "file": f"`{name}`",
                "size": f"{found['bytes'] / 1e6:.2f} MB",
                "largest difference of a probability": f"{found['largest_difference']:.2g}",
                "same predicted label": f"{found['same_label']:.2%}",
            }
            for name, found in exports.items()
        ]
    )


def read_result(name: str) -> dict:
    """A result of the benchmarks: ``"bench"`` or ``"serve"``."""
    return json.loads((paths.PROJECT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def save_chart(result_file: Path, path: Path) -> None:
    """Draw the speedups in `result_file`, a bench.json, to `path`.

    Shares of peak FLOP/s and the cost of augmentation are no speedups: those rows are left out.
    """
    result = json.loads(result_file.read_text(encoding="utf-8"))
    rows = [row for row in result["rows"] if row["speedup"] and row["measurement"] != "step"]
    title = f"Speedup over the baseline, on {_device(result['machine'])}"
    figure = plots.speedups(rows, title=title)
    figure.savefig(path, metadata={"bench_sha256": files.sha256(result_file)})
    plots.close(figure)


def write() -> None:
    """Update the documents and the figures from the records."""
    for document in _documents():
        document.write_text(_filled(document), encoding="utf-8")
    for path, figure in _figures().items():
        figure.savefig(path, metadata={"model_sha256": records.read(MODEL)["model_sha256"]})
        plots.close(figure)
    benchmarks = paths.PROJECT / "benchmarks"
    save_chart(benchmarks / "bench.json", benchmarks / "bench.png")


def differences() -> list[str]:
    """One line per document or figure that does not agree with the records."""
    found = [
        f"{document.name}: the numbers differ from the run records"
        for document in _documents()
        if document.read_text(encoding="utf-8") != _filled(document)
    ]
    bench = paths.PROJECT / "benchmarks" / "bench.json"
    expected = {
        FIGURES / "curves.png": ("model_sha256", records.read(MODEL)["model_sha256"]),
        FIGURES / "confusion_matrix.png": (
            "model_sha256",
            records.read(MODEL)["model_sha256"],
        ),
        bench.with_suffix(".png"): ("bench_sha256", files.sha256(bench)),
    }
    for path, (key, value) in expected.items():
        with Image.open(path) as image:
            if image.info.get(key) != value:
                found.append(f"{path.name}: drawn from a different record")
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


def _markdown(rows: list[dict], titles: dict[str, str] | None = None) -> str:
    table = pd.DataFrame(rows).rename(columns=titles or {})
    # All values are text already: tabulate must not parse "473,153" or "0.50" as numbers.
    return table.to_markdown(index=False, disable_numparse=True)


def _result(label, record, subset="test", bold=False):
    measures = record["metrics"][subset]
    accuracy, data = measures["accuracy"], record["data"]
    value = f"{accuracy['value']:.1%}"
    return {
        "network": label,
        "photos": f"{data['photos']['train']:,}, `{data['split']}`",
        "accuracy": f"**{value}**" if bold else value,
        "interval": _interval(accuracy),
        "n": f"{measures['photos']:,}",
        "time": duration(record["seconds"]),
    }


def _accuracy(measures):
    accuracy = measures["accuracy"]
    return (
        f"{accuracy['value']:.1%} test accuracy, 95% CI {_interval(accuracy)}, "
        f"n = {measures['photos']:,}"
    )


def _interval(measure):
    return f"{100 * measure['low']:.1f} to {100 * measure['high']:.1f}"


def _value(measure):
    if not isinstance(measure, dict):
        return f"{measure:.4f}"
    if measure.get("low") is None:
        return f"{measure['value']:.4f}"
    return f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})"


def _quantity(value, unit):
    if value is None:
        return "–"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _latency(load):
    return f"{load['p50'] * 1e3:.0f}, {load['p99'] * 1e3:.0f} ms"


def _device(device, capital=False):
    words = device.replace("CPU, ", "a CPU with ")
    return words[0].upper() + words[1:] if capital else words


def _measured(bench, name):
    return [row for row in bench["rows"] if row["measurement"] == name]


def _baseline_text(record):
    data, metrics = record["data"]["photos"], record["metrics"]
    return (
        f"The baseline is published with {PUBLISHED_BASELINE['train']:.0%} training accuracy and "
        f"{PUBLISHED_BASELINE['test']:.2%} test accuracy ({BASELINE_SOURCE}). Measured here, on "
        f"{data['train']:,} of its 8,000 training photos ({data['val']:,} others validate), "
        f"its last epoch has {record['history']['accuracy'][-1]:.1%} training, "
        f"{metrics['val']['accuracy']['value']:.1%} validation and "
        f"{metrics['test']['accuracy']['value']:.1%} test accuracy."
    )


def _facts(record):
    data, versions = record["data"], record["versions"]
    photos = data["photos"]
    hyperparameters = ", ".join(
        f"`{key}={value!r}`" for key, value in record["hyperparameters"].items()
    )
    return "\n".join(
        [
            f"- Training: {record['finished'][:10]}, {duration(record['seconds'])} on "
            f"{_device(record['device'])}; Keras {versions['keras']} on "
            f"{BACKENDS[record['backend']]}, "
            f"Python {record['python']}.",
            f"- Network: {record['parameters']:,} parameters, of epoch {record['best_epoch']} of "
            f"{record['epochs']}, the one with the lowest validation loss.",
            f"- Data: {photos['train']:,} training, {photos['val']:,} validation and "
            f"{photos['test']:,} test photos; split `{data['split']}`, fingerprint "
            f"`{data['fingerprint']}`.",
            f"- Hyperparameters: {hyperparameters}.",
        ]
    )


def _calibration(record):
    found = record["calibration"]
    temperature = found["temperature"]
    before, after = found["test_calibration_error_before"], found["test_calibration_error"]
    reading = "under" if temperature < 1 else "over"
    effect = "scaling helps there too" if after < before else "scaling does not help there"
    side = "below" if temperature < 1 else "above"
    return (
        f"Temperature scaling divides the logit by {temperature:.3f}, fitted on "
        f"{found['fitted_on']:,} validation photos. That is {side} 1: on the validation set, the "
        f"model is slightly {reading}confident. On the test set the calibration error goes from "
        f"{before:.4f} to {after:.4f}: {effect}.\n\n"
        f"Where the calibrated confidence is below {found['unsure_below']:.0%}, the prediction is "
        f'reported as "unsure": {found["unsure"]:.1%} of the test photos. Of these, '
        f"{found['accuracy_unsure']:.1%} would be classified correctly; of the others, "
        f"{found['accuracy_confident']:.1%} are."
    )


def _compared():
    """The records of notebook 05's networks that exist, by key; two_conv's is notebook 02's run."""
    names = {key: MODEL if key == "two_conv" else compare.run_names(key)[1] for key in COMPARED}
    return {key: records.read(name) for key, name in names.items() if records.exists(name)}


def _documents():
    return [
        paths.PROJECT / name for name in ("README.md", "models/README.md", "benchmarks/RESULTS.md")
    ]


def _filled(document: Path) -> str:
    text, found = document.read_text(encoding="utf-8"), blocks()
    folder = f"{os.path.relpath(FIGURES, document.parent)}/"

    def fill(match):
        margin = "\n" if "\n" in match[0] else ""  # a block of its own, or inside a sentence
        if match[2] not in found:
            raise ValueError(
                f"{document.name} asks for the block {match[2]!r}: expected one of "
                f"{', '.join(sorted(found))}"
            )
        return f"{match[1]}{margin}{found[match[2]].replace('{folder}', folder)}{margin}{match[3]}"

    return re.sub(
        r"(<!-- from the run record: (\w+) -->).*?(<!-- end -->)", fill, text, flags=re.DOTALL
    )


def _figures() -> dict[Path, Figure]:
    record = records.read(MODEL)
    test = record["metrics"]["test"]
    return {
        FIGURES / "curves.png": plots.curves(record["history"], best_epoch=record["best_epoch"]),
        FIGURES / "confusion_matrix.png": plots.confusion_matrix(
            test["confusion"],
            title=f"Test accuracy {test['accuracy']['value']:.1%}, n = {test['photos']:,}",
        ),
    }


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
