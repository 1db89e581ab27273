"""Where everything lies: the one place that knows the project's folders.

Two environment variables move things: ``CATSDOGS_DATA`` (the photos and what is computed from
them, by default ``data/``) and ``CATSDOGS_MODELS`` (what training writes, by default ``models/``).
They are read at each call, so a test or a notebook can change them while it runs.
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def data() -> Path:
    """The folder of the photos and of all that is computed from them."""
    return Path(os.environ.get("CATSDOGS_DATA") or PROJECT / "data").expanduser().resolve()


def photos() -> Path:
    """``PetImages``: two folders, ``Cat`` and ``Dog``, of ``N.jpg``."""
    return data() / "PetImages"


def unlabelled() -> Path:
    """Kaggle's unlabelled test photos, ``N.jpg``."""
    return data() / "test"


def source_file() -> Path:
    """JSON: where the photos came from, when, and how many there are."""
    return data() / "source.json"


def downloads() -> Path:
    """Archives on their way in, kept while they are incomplete so that a download can go on."""
    return data() / "downloads"


def tables() -> Path:
    """CSV tables computed from the photos: the check of every file, the splits."""
    return data() / "tables"


def arrays() -> Path:
    """Decoded and resized photos, one ``.npy`` file per size."""
    return data() / "arrays"


def features() -> Path:
    """What pretrained networks say of the photos, some hundred photos a ``.npz`` file."""
    return data() / "features"


def models() -> Path:
    """What training writes: models, run records, checkpoints."""
    return Path(os.environ.get("CATSDOGS_MODELS") or PROJECT / "models").expanduser().resolve()


def shown(path: Path) -> str:
    """``path`` as a person would type it: relative to the project where it lies inside it."""
    path = Path(path)
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)
