"""Run records: one JSON file a trained model, the source of every number that is published."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from catsdogs import audit, backend, dataset, paths
from catsdogs.backend import keras

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow", "scikit-learn", "imagehash")


def run_name(name: str) -> str:
    """`name`, with ``_drawn`` behind it where the photos are the drawn sample.

    So a run on drawn photos never replaces a model that was trained on real ones.
    """
    return f"{name}_drawn" if dataset.is_drawn() else name


def save_run(name: str, model: keras.Model, *, hyperparameters: dict, history: dict, best_epoch: int,
             metrics: dict, seconds: float, endings: Sequence[str] = ("keras", "h5")) -> Path:
    """Save `model` as ``models/NAME.keras`` and ``models/NAME.h5``, or only one of them, and its record as ``models/NAME.json``.

    What the record holds is said at `save_record`. Returns the record's path. Each file is replaced as a whole.
    """
    folder = paths.models()
    folder.mkdir(parents=True, exist_ok=True)
    for ending in endings:
        partial = folder / f".{name}.{os.getpid()}.{ending}"
        model.save(partial)
        os.replace(partial, folder / f"{name}.{ending}")
    return save_record(name, folder / f"{name}.{endings[0]}", parameters=model.count_params(), hyperparameters=hyperparameters,
                       history=history, best_epoch=best_epoch, metrics=metrics, seconds=seconds)


def save_record(name: str, model_file: Path, *, parameters: int, hyperparameters: dict, history: dict, best_epoch: int,
                metrics: dict, seconds: float, device: str | None = None, library: str | None = None) -> Path:
    """Write the record of a run, ``models/NAME.json``, whose model is in `model_file`, of any kind. Returns its path.

    `parameters` is how many numbers the model holds, `history` is as that of `model.fit`, `metrics` maps a split to
    `catsdogs.evaluate.evaluate`'s result, `seconds` is the time spent training. `device` and `library` say what it was
    trained on and with, by default those of Keras. The record adds what the photos were, with a fingerprint of them and
    of the split, the processor, library versions and the model file's SHA-256.
    """
    return _write({
        "name": name,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": _photos(hyperparameters),
        "hyperparameters": hyperparameters,
        "parameters": parameters,
        "history": history,
        "epochs": len(history["loss"]),
        "best_epoch": best_epoch,
        "metrics": metrics,
        "seconds": round(seconds, 1),
        "device": f"{device or backend.device()} ({processor()})",
        "backend": library or backend.name(),
        "python": platform.python_version(),
        "versions": versions(),
        "model_sha256": file_sha256(model_file),
    })


def read(name: str) -> dict:
    """The record of run `name`. Raises `FileNotFoundError` with what to do where there is none."""
    path = paths.models() / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no run record {paths.shown(path)}: run notebooks/02_train_the_cnn.ipynb first"
                                ) from None


def find(hyperparameters: dict, *names: str) -> str | None:
    """The first of `names` whose run had just these `hyperparameters` and the photos at hand; None where none had.

    ``PRECISION``, which says how a machine computes and not what, may differ.
    """
    def comparable(given):
        return json.loads(json.dumps({key: value for key, value in given.items() if key != "PRECISION"}))

    fingerprint = _photos(hyperparameters)["fingerprint"]
    for name in names:
        try:
            record = read(name)
        except FileNotFoundError:
            continue
        if comparable(record["hyperparameters"]) == comparable(hyperparameters) and record["data"]["fingerprint"] == fingerprint:
            return name
    return None


def add_metrics(name: str, split: str, metrics: dict) -> None:
    """Add the metrics of another split to the record of run `name`."""
    record = read(name)
    record["metrics"][split] = metrics
    _write(record)


def add_facts(name: str, **facts) -> None:
    """Add `facts`, such as ``calibration={...}``, to the record of run `name`, in place of what it had by those names."""
    _write(read(name) | facts)


def load_model(name: str) -> keras.Model:
    """The model of run `name`, which must be the one its record was written for.

    Raises `FileNotFoundError` or `ValueError` with what to do.
    """
    record, path = read(name), paths.models() / f"{name}.keras"
    if not path.exists():
        raise FileNotFoundError(f"no model {paths.shown(path)}: run notebooks/02_train_the_cnn.ipynb first")
    if file_sha256(path) != record["model_sha256"]:
        raise ValueError(f"{paths.shown(path)} is not the model that {name}.json records: train again, or restore both")
    return keras.saving.load_model(path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _photos(hyperparameters):
    return dataset.describe(hyperparameters["PROTOCOL"], audit.not_right() if hyperparameters.get("LEAVE_OUT") else ())


def _write(record):
    path = paths.models() / f"{record['name']}.json"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def versions() -> dict[str, str]:
    """The versions of the libraries that numbers may depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
