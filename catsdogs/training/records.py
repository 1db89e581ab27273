"""Run records: one JSON file per trained model, the source of every published number.

A run is known by its name, and lies in a folder of that name (see `catsdogs.paths`).
"""

import contextlib
import datetime
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from catsdogs import backend, files, paths
from catsdogs.backend import keras
from catsdogs.data import dataset
from catsdogs.networks import portable

_PACKAGES = (
    *("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn"),
    *("pillow", "simplejpeg", "cykooz-resizer", "imagehash"),
)


def run_name(name: str) -> str:
    """`name`, with the suffix ``-synthetic`` where the photos are the synthetic sample.

    So a run on synthetic photos never replaces a model that was trained on real ones. The name of
    an included model stays as it is.
    """
    synthetic = dataset.is_synthetic() and not paths.is_included(name)
    return f"{name}-synthetic" if synthetic else name


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
) -> Path:
    """Save `model` and its record as the run `name`; returns the run's folder.

    The folder has ``model.keras`` and ``record.json``, described at `save_record`. Formats exported
    from an earlier run of the same name are removed.

    Raises `ValueError` for the name of an included model, or one that no folder can have.
    """
    path = own_folder(name) / "model.keras"
    portable.save(model, path)
    return save_record(
        name,
        path,
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
    """Write ``record.json`` of the run `name`; returns the run's folder.

    `model_file` is the saved model, in any format, and `parameters` how many it has. `data` is the
    description of `catsdogs.data.dataset.Dataset.describe`, `history` that of `model.fit`;
    `metrics` maps a subset to the result of `catsdogs.analysis.metrics.evaluate`; `seconds` is the
    time spent training. `run_key` is that of `catsdogs.training.checkpoint.run_key`, by which
    `find` recognizes the run. `device` and `library` say what trained it, by default Keras's. The
    record adds the processor, library versions and the SHA-256 of the model file.
    """
    folder = own_folder(name)
    _write(
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
    for derived in folder.iterdir():  # exported from, or drawn of, an earlier run of this name
        if derived.is_file() and derived.name not in (model_file.name, paths.RECORD_FILE):
            derived.unlink()
    return folder


def own_folder(name: str) -> Path:
    """The folder of the run `name`, made if there is none.

    Raises `ValueError` for the name of an included model, or one that no folder can have.
    """
    if paths.is_included(name):
        raise ValueError(
            f"{name!r} is an included model, which runs never replace: choose a different name"
        )
    folder = paths.model_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read(name: str) -> dict:
    """The record of run `name`.

    Raises `catsdogs.paths.NotFoundError` with what to do where there is none, and
    `catsdogs.files.DamagedFileError` where it is damaged.
    """
    path = paths.model_folder(name) / paths.RECORD_FILE
    try:
        record = files.read_json(path)
    except FileNotFoundError:
        raise paths.NotFoundError(
            f"no run {name!r}: train it with notebooks/02_train_the_cnn.ipynb, or choose from "
            f"{', '.join(paths.model_names())}"
        ) from None
    except files.DamagedFileError as error:
        raise files.DamagedFileError(f"{error}. Restore it, or train {name!r} again") from None
    for key in ("name", "data", "hyperparameters", "history", "metrics"):
        if key not in record:
            raise files.DamagedFileError(
                f"{paths.shown(path)} has no {key!r}, so it is not the record of a run: "
                f"restore it, or train {name!r} again"
            )
    return record


def exists(name: str, *, model: bool = False) -> bool:
    """Whether there is a record of run `name` and, if `model` is true, its Keras model too."""
    folder = paths.model_folder(name)
    return (folder / paths.RECORD_FILE).exists() and (
        not model or (folder / "model.keras").exists()
    )


def find(run_key: str, *names: str) -> str | None:
    """The first of `names` whose record has this `run_key`, or None."""
    for name in filter(exists, names):
        with contextlib.suppress(files.DamagedFileError):  # it can be trained again
            if read(name).get("run_key") == run_key:
                return name
    return None


def add_metrics(name: str, subset: str, metrics: dict) -> dict:
    """The record of run `name` with the metrics of a further subset, such as ``"test"``.

    They are saved if it is a run of one's own. The record of an included model stays as it was
    published.
    """
    record = read(name)
    record["metrics"][subset] = metrics
    return _write_own(record)


def add_facts(name: str, **facts) -> dict:
    """The record of run `name` with `facts`, such as ``calibration={...}``; saved as above."""
    return _write_own(read(name) | facts)


def load_model(name: str) -> keras.Model:
    """Load the model of run `name`, which must be the one that its record describes.

    Raises `FileNotFoundError` where there is none, and `ValueError` where it is a different one.
    """
    record, path = read(name), paths.model_folder(name) / "model.keras"
    if not path.exists():
        raise FileNotFoundError(
            f"no model {paths.shown(path)}, only its record: train it again to get one"
        )
    if files.sha256(path) != record["model_sha256"]:
        raise ValueError(
            f"{paths.shown(path)} is not the model that {paths.RECORD_FILE} beside it describes: "
            "train again, or restore both"
        )
    return keras.saving.load_model(path)


def publish(name: str, included: str, formats: Sequence[str] = ("keras",)) -> None:
    """Make the run `name` the included model `included`: its record, and the model in `formats`."""
    own, folder = paths.model_folder(name), paths.included() / included
    for form in formats:
        with files.replacing(folder / f"model.{form}") as partial:
            shutil.copyfile(own / f"model.{form}", partial)
    files.write(folder / paths.RECORD_FILE, _text(read(name) | {"name": included}))


def _write_own(record):
    if not paths.is_included(record["name"]):
        _write(record)
    return record


def _write(record):
    files.write(paths.model_folder(record["name"]) / paths.RECORD_FILE, _text(record))


def _text(record):
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


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
