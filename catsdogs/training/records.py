"""Run records: one JSON file per trained model, the source of every published number."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path

from catsdogs import backend, files, paths
from catsdogs.backend import keras
from catsdogs.data import dataset

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow", "scikit-learn", "imagehash")


def run_name(name: str) -> str:
    """`name`, with the suffix ``_synthetic`` where the photos are the synthetic sample.

    So a run on synthetic photos never replaces a model that was trained on real ones.
    """
    return f"{name}_synthetic" if dataset.is_synthetic() else name


def save_run(
    name: str,
    model: keras.Model,
    *,
    data: dict,
    hyperparameters: dict,
    history: dict,
    best_epoch: int,
    metrics: dict,
    seconds: float,
    run_key: str | None = None,
    endings: Sequence[str] = ("keras", "h5"),
) -> Path:
    """Save `model` as ``models/NAME.ENDING`` for each of `endings`, and its record.

    The record is described at `save_record`; its path is returned. Each file is replaced in one
    step.
    """
    for ending in endings:
        with files.replacing(paths.models() / f"{name}.{ending}", same_ending=True) as partial:
            model.save(partial)
    return save_record(
        name,
        paths.models() / f"{name}.{endings[0]}",
        parameters=model.count_params(),
        data=data,
        hyperparameters=hyperparameters,
        history=history,
        best_epoch=best_epoch,
        metrics=metrics,
        seconds=seconds,
        run_key=run_key,
    )


def save_record(
    name: str,
    model_file: Path,
    *,
    parameters: int,
    data: dict,
    hyperparameters: dict,
    history: dict,
    best_epoch: int,
    metrics: dict,
    seconds: float,
    run_key: str | None = None,
    device: str | None = None,
    library: str | None = None,
) -> Path:
    """Write the record of a run, ``models/NAME.json``, and return its path.

    `model_file` is the saved model, in any format, and `parameters` how many it has. `data` is the
    description of `catsdogs.data.dataset.Dataset.describe`, `history` that of `model.fit`;
    `metrics` maps a subset to the result of `catsdogs.analysis.metrics.evaluate`; `seconds` is the
    time spent training. `run_key` is that of `catsdogs.training.checkpoint.run_key`, by which
    `find` recognizes the run. `device` and `library` say what trained it, by default Keras's. The
    record adds the processor, library versions and the SHA-256 of the model file.
    """
    return _write(
        {
            "name": name,
            "run_key": run_key,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "data": data,
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
            "model_sha256": files.sha256(model_file),
        }
    )


def read(name: str) -> dict:
    """The record of run `name`. Raises `FileNotFoundError` with what to do where there is none."""
    path = paths.models() / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no run record {paths.shown(path)}: run notebooks/02_train_the_cnn.ipynb first"
        ) from None


def find(run_key: str, *names: str) -> str | None:
    """The first of `names` whose record has this `run_key`, or None."""
    for name in names:
        try:
            if read(name).get("run_key") == run_key:
                return name
        except FileNotFoundError:
            continue
    return None


def add_metrics(name: str, subset: str, metrics: dict) -> None:
    """Add the metrics of a further subset, such as ``"test"``, to the record of run `name`."""
    record = read(name)
    record["metrics"][subset] = metrics
    _write(record)


def add_facts(name: str, **facts) -> None:
    """Set `facts`, such as ``calibration={...}``, in the record of run `name`."""
    _write(read(name) | facts)


def load_model(name: str) -> keras.Model:
    """Load the model of run `name`, which must be the one that its record describes.

    Raises `FileNotFoundError` where there is none, and `ValueError` where it is a different one.
    """
    record, path = read(name), paths.models() / f"{name}.keras"
    if not path.exists():
        raise FileNotFoundError(
            f"no model {paths.shown(path)}: run notebooks/02_train_the_cnn.ipynb first"
        )
    if files.sha256(path) != record["model_sha256"]:
        raise ValueError(
            f"{paths.shown(path)} is not the model that {name}.json describes: "
            "train again, or restore both"
        )
    return keras.saving.load_model(path)


def _write(record):
    path = paths.models() / f"{record['name']}.json"
    files.write(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
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
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
