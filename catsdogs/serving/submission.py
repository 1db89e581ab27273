"""What Kaggle's two cats-and-dogs competitions take: a table of ``id,label`` for their unlabelled photos."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs import files, paths
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset
from catsdogs.data.decode import decode_all
from catsdogs.data.splits import prepare
from catsdogs.networks import features
from catsdogs.training import records


@dataclass(frozen=True)
class Competition:
    """``scored_by``: ``"log_loss"`` or ``"accuracy"``. ``probabilities``: whether labels are those of "dog", or 0 and 1."""

    scored_by: str
    probabilities: bool


#: By the names in their addresses, www.kaggle.com/c/NAME.
COMPETITIONS = {
    "dogs-vs-cats-redux-kernels-edition": Competition("log_loss", True),
    "dogs-vs-cats": Competition("accuracy", False),
}


def photos() -> dict[int, Path]:
    """Kaggle's unlabelled photos, ``data/test/N.jpg``, by N and in its order.

    Raises `FileNotFoundError`, with what to do, where there are none.
    """
    found = {
        int(path.stem): path for path in paths.unlabelled().glob("*.jpg") if path.stem.isdecimal()
    }
    if not found:
        raise FileNotFoundError(
            f"no photos in {paths.shown(paths.unlabelled())}: expected N.jpg. "
            "Run ./download_data.sh kaggle, or ./download_data.sh zip with Kaggle's archive."
        )
    return dict(sorted(found.items()))


def stand_ins(split: str = "full") -> dict[int, Path]:
    """Our own test photos of `split`, numbered from 1: in place of Kaggle's, to try everything without them."""
    rows = prepare(split)
    return {
        number: paths.photos() / photo
        for number, photo in enumerate(rows.photo[rows.subset == "test"], start=1)
    }


def flips(name: str) -> tuple[bool, ...]:
    """What `flip` may be for the model of run `name`: a network of notebook 02 can be given the horizontal flip of a photo too
    or not (test-time augmentation); the head of notebook 06 is given what it was trained on.

    Raises `ValueError` for a fine-tuned network of notebook 06, which is neither.
    """
    p = records.read(name)["hyperparameters"]
    if "FINE_TUNE" in p:
        raise ValueError(
            f"{name} is a fine-tuned network: expected a run of notebook 02, or the head of notebook 06, such as pretrained"
        )
    return (p["FLIP_TTA"],) if "NETWORKS" in p else (False, True)


def predict_subset(name: str, subset: str, *, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the probabilities of "dog" for a subset, ``"val"`` or ``"test"``, by the model of run `name`.

    The run is one of notebook 02, or of notebook 06, whose head needs the features of its backbones. With `flip`, the
    prediction for each photo's horizontal flip is averaged in, unless `flips` has it otherwise.
    """
    model, p = records.load_model(name), records.read(name)["hyperparameters"]
    dataset = Dataset(p["SPLIT"], p.get("IMAGE_SIZE", 64))
    if "NETWORKS" in p:
        some = getattr(features.FeatureSet(dataset, p["NETWORKS"], flip=p["FLIP_TTA"]), subset)
        return some.labels, _predict_features(model, some.values)
    some = getattr(dataset, subset)
    return some.labels, _predict_pixels(model, some.images, flip)


def predict(name: str, photos: Sequence[Path], *, flip: bool) -> np.ndarray:
    """The probabilities of "dog" for photos on disk, shape (photos,), by the model of run `name`, as `predict_subset` does."""
    model, p = records.load_model(name), records.read(name)["hyperparameters"]
    if "NETWORKS" not in p:
        decoded, parts = decode_all(photos, p["IMAGE_SIZE"]), []
        while batch := list(islice(decoded, 1024)):
            parts.append(_predict_pixels(model, np.stack(batch), flip))
        return np.concatenate(parts)
    contents = [files.sha256(photo) for photo in photos]
    folder, values = Path(os.path.commonpath([photo.parent for photo in photos])), []
    names = [str(photo.relative_to(folder)) for photo in photos]
    for network, size in p["NETWORKS"].items():
        found = [
            features.compute(names, contents, network, size, flip=flipped, folder=folder)
            for flipped in ((False, True) if p["FLIP_TTA"] else (False,))
        ]
        values.append(sum(found) / len(found))
    return _predict_features(model, np.hstack(values))


def _predict_features(head, values):
    return keras.ops.convert_to_numpy(head(values))[
        :, 0
    ]  # one layer: nothing to compile, nothing to batch


def _predict_pixels(model, images, flip):
    views = [images, images[:, :, ::-1]] if flip else [images]
    return sum(model.predict(view, batch_size=256, verbose=0)[:, 0] for view in views) / len(views)


def table(competition: str, ids: Iterable[int], probabilities, *, clip: float) -> pd.DataFrame:
    """The submission: columns ``id``, the photos' numbers, and ``label``, what the competition wants for it.

    That is the probability of "dog", kept `clip` away from 0 and 1, or 0 for a cat and 1 for a dog.
    """
    probabilities = np.asarray(probabilities, float).reshape(-1)
    wants = COMPETITIONS[competition]
    labels = (
        np.clip(probabilities, clip, 1 - clip)
        if wants.probabilities
        else (probabilities > 0.5).astype(int)
    )
    return pd.DataFrame({"id": list(ids), "label": labels})


def check(competition: str, submission: pd.DataFrame, sample: pd.DataFrame | None = None) -> None:
    """Raise `ValueError`, saying what was found and expected, unless `competition` would accept `submission`.

    `sample` is the competition's own sample file, where it is at hand: the same columns and the same ids, in its order.
    """
    if list(submission.columns) != ["id", "label"]:
        raise ValueError(f"columns are {list(submission.columns)}: expected id, label")
    if submission.id.duplicated().any():
        raise ValueError(f"id {submission.id[submission.id.duplicated()].iloc[0]} is there twice")
    labels = submission.label
    if labels.isna().any() or not labels.between(0, 1).all():
        raise ValueError(
            f"label {labels[~labels.between(0, 1)].iloc[0]} of id {submission.id[~labels.between(0, 1)].iloc[0]}: "
            "expected 0 to 1"
        )
    if not COMPETITIONS[competition].probabilities and not labels.isin([0, 1]).all():
        raise ValueError(
            f"labels such as {labels[~labels.isin([0, 1])].iloc[0]}: {competition} takes 0 or 1"
        )
    if sample is None:
        return
    if list(sample.columns) != list(submission.columns):
        raise ValueError(f"the sample has the columns {list(sample.columns)}: expected id, label")
    missing, extra = set(sample.id) - set(submission.id), set(submission.id) - set(sample.id)
    if missing or extra:
        raise ValueError(
            f"{len(missing)} ids of the sample are missing{_some(missing)}, {len(extra)} are not in it{_some(extra)}"
        )
    if list(sample.id) != list(submission.id):
        raise ValueError("the ids are in another order than the sample's")


def write(
    competition: str, submission: pd.DataFrame, path: Path, sample: Path | None = None
) -> None:
    """Write `submission` to `path`, after `check`; and check what was written, as Kaggle will read it."""
    expected = pd.read_csv(sample) if sample else None
    with files.replacing(path) as partial:
        submission.to_csv(partial, index=False, lineterminator="\n")
        check(competition, pd.read_csv(partial), expected)


def _some(ids):
    return (
        f" ({', '.join(map(str, sorted(ids)[:3]))}{', …' if len(ids) > 3 else ''})" if ids else ""
    )
