"""The project's folders, defined in one place.

Two environment variables relocate them: ``CATSDOGS_DATA`` (the photos and everything computed from
them; default ``data/``) and ``CATSDOGS_MODELS`` (what training writes; default ``models/``). They
are read at each call, so a test or a notebook can change them while it runs.
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def data() -> Path:
    """The folder of the photos and of everything computed from them."""
    return Path(os.environ.get("CATSDOGS_DATA") or PROJECT / "data").expanduser().resolve()


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


def models() -> Path:
    """What training writes: models, run records and checkpoints."""
    return Path(os.environ.get("CATSDOGS_MODELS") or PROJECT / "models").expanduser().resolve()


def shown(path: Path) -> str:
    """`path` as a person would type it: relative to the project if it is inside."""
    path = Path(path)
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)
