"""NumPy's archives of arrays, ``.npz``, with every checksum compared when one is read."""

import io
import zipfile
from pathlib import Path

import numpy as np

from catsdogs import paths


def packed(**arrays) -> bytes:
    """The content of an ``.npz`` file that holds `arrays`."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays in the ``.npz`` file at `path`, by name.

    `numpy.load` compares the checksum of an array only if it reads all of its bytes, which it does
    not where the damage is in the shape. Raises OSError where the file cannot be read, and
    ValueError where it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)))
                for name in archive.namelist()
            }
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for damage
        raise ValueError(f"{paths.shown(path)} is damaged: {error}") from None
