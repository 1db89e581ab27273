"""Which file a model's name, folder or path stands for, and the run record beside it.

It needs nothing but the standard library, so that the service starts fast.
"""

import os
from pathlib import Path

from catsdogs import files, paths
from catsdogs.text import printable

#: The formats of a model, in the order in which its folder is searched for them.
FORMATS = (".keras", ".onnx", ".tflite")


class ModelError(ValueError):
    """A model file that cannot be used. Its text says what was found, expected and to be done."""


def find_model(model: str | os.PathLike | None = None, formats: tuple[str, ...] = FORMATS) -> Path:
    """The file of `model`: the name of a run or of an included model, its folder, or a file.

    By default that is the included model `catsdogs.paths.DEFAULT_MODEL`. Of a folder with the model
    in several formats, the first of `formats` is taken.

    Raises `ModelError` where there is none, or none in these formats.
    """
    path = Path(model or paths.DEFAULT_MODEL).expanduser()
    text = printable(str(model))
    if path.suffix in FORMATS or path.is_file():
        found = [path]
    else:
        folder = path if path.is_dir() else _named(path)
        if folder is None:
            raise ModelError(
                f"no model {text}: expected one of {', '.join(paths.model_names())}, or the path "
                f"of a {_either(formats)} file"
            )
        found = [file for form in formats if (file := folder / f"model{form}").is_file()]
        if not found:
            expected = _either([f"model{form}" for form in formats])
            remedy = "train" if ".keras" in formats else "export"
            raise ModelError(
                f"{printable(paths.shown(folder))} has no {expected}: {remedy} it again"
            )
    if found[0].suffix not in formats:
        raise ModelError(
            f"{printable(paths.shown(found[0]))} is not a {_either(formats)} file: only those are "
            "loaded, as other formats can run code"
        )
    if not found[0].is_file():
        source = "notebook 02 trains one" if ".keras" in formats else "catsdogs export makes one"
        raise ModelError(f"no model {printable(paths.shown(found[0]))}: no such file; {source}")
    return found[0]


def name_of(path: Path) -> str:
    """What the model in the file `path` is called: its folder's name, or that of a file alone."""
    return path.resolve().parent.name if _in_folder(path) else path.stem


def is_included(path: Path) -> bool:
    """Whether the model file `path` is included with the project."""
    return path.resolve().parent.parent == paths.included()


def where(path: Path) -> str:
    """A few words to print: which model the file `path` is, and whose."""
    folder = path.resolve().parent
    if folder.parent in (paths.included(), paths.runs()):
        return f"{folder.name}, {paths.whose(folder)}"
    return printable(paths.shown(path))


def record_beside(path: Path) -> dict:
    """The run record in the folder of the model file `path`; empty where there is none.

    Raises `ModelError` where it is of a different model.
    """
    if not _in_folder(path):
        return {}
    try:
        record = files.read_json(path.with_name(paths.RECORD_FILE))
    except (OSError, ValueError):
        return {}
    if path.suffix == ".keras" and files.sha256(path) != record.get("model_sha256"):
        raise different_model(path)
    return record


def different_model(path: Path) -> ModelError:
    """The error for a model file beside the record of a different model."""
    remedy = "train it again" if path.suffix == ".keras" else "export it again"
    return ModelError(
        f"{printable(paths.shown(path))} is not the model that {paths.RECORD_FILE} beside it "
        f"describes: {remedy}, or restore both"
    )


def is_synthetic(record: dict) -> bool:
    """Whether the model of a run record was trained on the synthetic sample."""
    data = record.get("data")
    return isinstance(data, dict) and data.get("source") == "synthetic"


def _named(path):
    if len(path.parts) != 1:
        return None
    try:
        folder = paths.model_folder(path.name)
    except ValueError:
        return None
    return folder if folder.is_dir() else None


def _in_folder(path):
    return path.stem in ("model", "model_int8")


def _either(names):
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
