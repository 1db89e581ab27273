"""Classify photos with a trained model: files in, answers out."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from catsdogs import CLASS_NAMES, paths
from catsdogs.decode import PhotoError, decode

#: The endings, in lower case, of the files that are looked for in folders; a file that is named is always tried.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".heic", ".heif")


class ModelError(ValueError):
    """A model file that cannot be used. Its text says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one photo.

    ``photo``: its path as it was given. ``probability``: that it shows a dog, 0 to 1, or None where the photo could not be
    read; ``problem`` then says why, in a few words.
    """

    photo: str
    probability: float | None
    problem: str = ""

    @property
    def label(self) -> str | None:
        """``"cat"`` or ``"dog"``, whichever is more likely, or None where the photo could not be read."""
        return None if self.probability is None else CLASS_NAMES[self.probability >= 0.5]


def load_model(path: Path | None = None):
    """The Keras model in the ``.keras`` file at `path`, by default the one that ships, loaded in Keras's safe mode.

    Raises `ModelError` for a file that is missing, damaged, or of a model that does not take (photos, size, size, 3) and
    answer with (photos, 1).
    """
    path = Path(path or paths.models() / "cats_vs_dogs.keras")
    if not path.is_file():
        raise ModelError(f"no model {paths.shown(path)}: expected a .keras file; notebook 02 makes one")
    if path.suffix != ".keras":
        raise ModelError(f"{paths.shown(path)} is no .keras file; only those are loaded, as others may run code")
    from catsdogs.backend import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        takes, gives = model.input_shape, model.output_shape
    except Exception as error:  # zipfile, h5py, json and Keras raise many kinds for a damaged file
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelError(f"{paths.shown(path)} cannot be loaded ({reason}): get it again, or train with notebook 02") from None
    if not (isinstance(takes, tuple) and len(takes) == 4 and takes[1] and takes[1] == takes[2] and takes[3] == 3
            and gives == (None, 1)):
        raise ModelError(f"{paths.shown(path)} takes {takes} and answers {gives}: expected a model that takes "
                         "(None, size, size, 3) and answers (None, 1), as notebook 02 makes it")
    return model


def find_photos(given: Iterable[str | os.PathLike]) -> Iterator[Path]:
    """The photos that `given` names: files as they are, folders with all photos below them, ordered by path."""
    for path in map(Path, given):
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        else:
            yield path


def classify(model, photos: Iterable[str | os.PathLike], *, batch_size: int = 64) -> Iterator[Answer]:
    """What `model` says of each of `photos`, in their order; a photo that cannot be read gets an answer that says so.

    `model` takes arrays as `catsdogs.decode.decode` makes them. Photos are decoded on all cores, `batch_size` at a time.
    """
    size, remaining = model.input_shape[1], iter(photos)

    def read(photo):
        try:
            return decode(photo, size)
        except PhotoError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(remaining, batch_size)):
            found = list(pool.map(read, batch))
            good = [pixels for pixels in found if isinstance(pixels, np.ndarray)]
            probabilities = iter(model.predict_on_batch(np.stack(good))[:, 0] if good else ())
            for photo, pixels in zip(batch, found):
                if isinstance(pixels, np.ndarray):
                    yield Answer(str(photo), float(next(probabilities)))
                else:
                    yield Answer(str(photo), None, str(pixels))
