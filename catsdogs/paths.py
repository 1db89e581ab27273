"""The project's folders, defined in one place.

Two environment variables relocate them: ``CATSDOGS_DATA`` (the photos and everything computed from
them; default ``data/``) and ``CATSDOGS_RUNS`` (what training writes; default ``models/runs/``).
They are read at each call, so a test or a notebook can change them while it runs.

A model is a folder: the network in every format it was exported to, and its run record. Those in
``models/`` are included with the project, and training never writes there; a run of one's own is a
folder in ``models/runs/``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from catsdogs.text import Message

PROJECT = Path(__file__).resolve().parent.parent

#: The included model that is used where none is named.
DEFAULT_MODEL = "two-conv"
#: The run record in the folder of a model.
RECORD_FILE = "record.json"


def data() -> Path:
    """The folder of the photos and of everything computed from them."""
    return _folder("CATSDOGS_DATA", PROJECT / "data")


def photos() -> Path:
    """``PetImages``: the folders ``Cat`` and ``Dog``, each of files ``N.jpg``."""
    return data() / "PetImages"


def unlabelled() -> Path:
    """Kaggle's unlabelled test photos, ``N.jpg``."""
    return data() / "test"


def source_file() -> Path:
    """A JSON file: where the photos came from, when, and how many there are."""
    return data() / "source.json"


def downloads() -> Path:
    """Archives while they download: an incomplete one is kept, so that the download can resume."""
    return data() / "downloads"


def tables() -> Path:
    """CSV tables computed from the photos: the check of every file, the splits."""
    return data() / "tables"


def arrays() -> Path:
    """Decoded and resized photos, one ``.npy`` file per size."""
    return data() / "arrays"


def features() -> Path:
    """Features extracted by frozen backbones, a few hundred photos per ``.npz`` file."""
    return data() / "features"


def included() -> Path:
    """The included models, one folder each. Only ``make publish`` writes there."""
    return PROJECT / "models"


def runs() -> Path:
    """What training writes: one folder per run, and the checkpoints of unfinished runs."""
    return _folder("CATSDOGS_RUNS", included() / "runs")


def checkpoints() -> Path:
    """Checkpoints of runs that are training or were interrupted."""
    return runs() / ".checkpoints"


def model_names() -> list[str]:
    """The names of all models and run records: one's own runs first, then the included ones."""
    folders = [*sorted(runs().glob("*/")), *sorted(included().glob("*/"))]
    return [folder.name for folder in folders if (folder / RECORD_FILE).exists()]


def is_included(name: str) -> bool:
    """Whether `name` is that of an included model."""
    return name == DEFAULT_MODEL or (included() / name / RECORD_FILE).exists()


def model_folder(name: str) -> Path:
    """The folder of the model `name`, which need not exist yet: included, or a run of one's own.

    Raises `ValueError` for a name that cannot be that of a folder on every system.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name) or name.endswith("."):
        raise ValueError(
            f"{name!r} cannot be the name of a run: expected up to 100 letters, digits, hyphens, "
            'underscores and dots, such as "my-run"'
        )
    return (included() if is_included(name) else runs()) / name


def whose(folder: Path) -> str:
    """``"included"`` or ``"a run of your own"``, to print beside the name of a model's folder."""
    return "included" if folder.parent == included() else "a run of your own"


def shown(path: Path) -> str:
    """`path` as a person would type it: relative to the project if it is inside."""
    path = Path(path)
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


class NotFoundError(Message, FileNotFoundError):
    """There is nothing at the path that a person gave; the message names where was looked."""


def find(typed: str | os.PathLike) -> Path:
    """The file or folder that a person means by `typed`.

    ``~`` is the home folder. A relative path is looked for in the current folder, which in a
    notebook is usually the notebook's, then in ``notebooks/``, then in the project. Quotation marks
    around it are ignored. The path stays relative if it is below the current folder.

    Raises `NotFoundError`, which names the places that were looked in.
    """
    text = os.fspath(typed).strip()
    if not text.strip("\"'"):
        raise NotFoundError("No path was given: expected that of a file or a folder.")
    # Unlike those of Path, the functions of os.path never fail at an odd name.
    *quoted, path = dict.fromkeys(map(os.path.expanduser, [text, text.strip("\"'")]))
    for place in (Path(), PROJECT / "notebooks", PROJECT):
        for spelling in [*quoted, path]:
            if os.path.exists(place / spelling):
                return place / spelling
    places = (Path.cwd(), PROJECT / "notebooks", PROJECT)
    first, *others = dict.fromkeys(str(place / path) for place in places)
    raise NotFoundError(
        f"There is no file or folder {first}{''.join(f', nor {other}' for other in others)}."
    )


def _folder(variable, default):
    """The folder that an environment variable names, as an absolute path, or else `default`."""
    # Path.expanduser fails where there is no such user; a folder may well be called ~x.
    return Path(os.path.expanduser(os.environ.get(variable) or default)).resolve()
