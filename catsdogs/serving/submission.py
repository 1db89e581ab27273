"""Submissions to Kaggle's two cats-and-dogs competitions: choose an ensemble, predict, write."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss

from catsdogs import files, names, paths
from catsdogs.analysis.metrics import best_clip
from catsdogs.data.dataset import Dataset
from catsdogs.data.decode import PhotoError, decode
from catsdogs.data.splits import prepare
from catsdogs.networks import features
from catsdogs.serving.predictor import keras_predictor, predict_photos
from catsdogs.training import records, transfer


@dataclass(frozen=True)
class Competition:
    """``metric``: ``"log_loss"`` or ``"accuracy"``.

    ``probabilities``: whether it takes the probability of "dog", or a label, 0 or 1.
    """

    metric: str
    probabilities: bool


#: By the name in their address, www.kaggle.com/c/NAME.
COMPETITIONS = {
    "dogs-vs-cats-redux-kernels-edition": Competition("log_loss", True),
    "dogs-vs-cats": Competition("accuracy", False),
}


@dataclass(frozen=True)
class Ensemble:
    """One or more ``runs``, by name, whose probabilities are averaged.

    ``flip``: whether the prediction for a photo's horizontal flip is averaged in (test-time
    augmentation) for those runs that allow it (see `flips`).
    """

    runs: tuple[str, ...]
    flip: bool = False


def photos(sample: Path | None = None) -> dict[int, Path]:
    """Kaggle's unlabelled photos, ``data/test/N.jpg``, by N and in ascending order.

    With `sample`, the competition's own sample file: one path for each of its ids and in its order,
    whether the photo is there or not.

    Raises `FileNotFoundError`, with what to do, where there are none, and what `read_sample` does.
    """
    folder, found = paths.unlabelled(), {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if names.is_photo(path.name) and path.stem.isdecimal():
            found[int(path.stem)] = path
    if not found:
        raise paths.NotFoundError(
            f"no photos in {paths.shown(folder)}: expected N.jpg. "
            "Run bash download_data.sh kaggle, or bash download_data.sh zip with Kaggle's archive."
        )
    ids = sorted(found) if sample is None else read_sample(sample).id
    return {number: found.get(number, folder / f"{number}.jpg") for number in ids}


def read_sample(path: Path) -> pd.DataFrame:
    """A competition's sample file: columns ``id`` and ``label``.

    Raises `ValueError` where there is none, or a different file.
    """
    try:
        sample = pd.read_csv(path)
    except (OSError, ValueError) as error:  # not there, no text, or no table
        raise ValueError(
            f"the sample file {paths.shown(path)} cannot be read ({error}): expected the "
            "competition's sample_submission.csv, which comes with its data"
        ) from None
    if list(sample.columns) != ["id", "label"] or not pd.api.types.is_integer_dtype(sample.id):
        raise ValueError(
            f"the sample has the columns {list(sample.columns)}: expected id, a number, and label"
        )
    return sample


def stand_ins(split: str = "full") -> dict[int, Path]:
    """Our own test set of `split`, numbered from 1: stands in for Kaggle's photos."""
    rows = prepare(split)
    return {
        number: paths.photos() / photo
        for number, photo in enumerate(rows.photo[rows.subset == "test"], start=1)
    }


# --- predict ------------------------------------------------------------------------------------


def flips(name: str) -> tuple[bool, ...]:
    """The values that `flip` may have for the run `name`.

    A network of notebook 02 can predict with or without the horizontal flip (test-time
    augmentation). The head of notebook 06 must be given the features that it was trained on.

    Raises `ValueError` for a fine-tuned network of notebook 06, which is neither.
    """
    p = records.read(name)["hyperparameters"]
    if "FINE_TUNE" in p:
        raise ValueError(
            f"{name} is a fine-tuned network: expected a run of notebook 02, "
            "or the head of notebook 06, such as pretrained"
        )
    return (p["FLIP_TTA"],) if "NETWORKS" in p else (False, True)


def predict_subset(name: str, subset: str, *, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of "dog" by the run `name` for ``"val"`` or ``"test"``.

    The run is one of notebook 02, or the head of notebook 06, for which features are extracted.
    With `flip`, the prediction for each photo's horizontal flip is averaged in, unless `flips` does
    not allow it.
    """
    model, p = records.load_model(name), records.read(name)["hyperparameters"]
    dataset = Dataset(p["SPLIT"], p.get("IMAGE_SIZE", 64))
    if "NETWORKS" in p:
        found = getattr(features.FeatureSet(dataset, p["NETWORKS"], flip=p["FLIP_TTA"]), subset)
        return found.labels, transfer.predict(model, found.values)
    found = getattr(dataset, subset)
    return found.labels, keras_predictor(model).predict(found.images, flip=flip)


def predict(name: str, photos: Sequence[Path], *, flip: bool) -> np.ndarray:
    """Probabilities of "dog" by the run `name` for photos on disk, (photos,); see `predict_subset`.

    That of a photo that cannot be decoded is NaN (see `problems`).
    """
    model, p = records.load_model(name), records.read(name)["hyperparameters"]
    if "NETWORKS" not in p:
        found = predict_photos(_predictor(model, flip), photos)
        return np.array([np.nan if one.probability is None else one.probability for one in found])
    folder = Path(os.path.commonpath([photo.parent for photo in photos]))
    values = features.compute_all(
        [str(photo.relative_to(folder)) for photo in photos],
        [_sha256(photo) for photo in photos],
        p["NETWORKS"],
        flip=p["FLIP_TTA"],
        folder=folder,
        errors="nan",
    )
    return transfer.predict(model, values)


def _sha256(photo):
    try:
        return files.sha256(photo)
    except OSError:  # gone, a folder, or not readable: that is found when it is decoded
        return ""


def problems(photos: Iterable[Path], probabilities: np.ndarray) -> dict[Path, str]:
    """Why each photo whose probability is NaN cannot be decoded."""
    found = {}
    for photo, probability in zip(photos, probabilities, strict=True):
        if np.isnan(probability):
            try:
                decode(photo, 1)
                found[photo] = "its probability is NaN, though it can be decoded"
            except PhotoError as error:
                found[photo] = str(error)
    return found


def _predictor(model, flip):
    """A network of notebook 02 as a `Predictor`; with `flip`, one with test-time augmentation."""
    predictor = keras_predictor(model)
    if not flip:
        return predictor
    return replace(
        predictor, predict_batch=lambda images: predictor.predict(images, flip=True)[:, None]
    )


# --- choose -------------------------------------------------------------------------------------


def candidates(models: Sequence[str], seeds: Sequence[str] = ()) -> list[Ensemble]:
    """The ensembles to choose from.

    Each of `models`, runs by name, with and without test-time augmentation where it allows both;
    their average; and, of one network trained with several random seeds, the runs `seeds`: their
    average, and that of all.

    Raises `ValueError` for runs of different splits, whose validation sets differ.
    """
    splits = {name: records.read(name)["hyperparameters"]["SPLIT"] for name in (*models, *seeds)}
    if len(set(splits.values())) > 1:
        raise ValueError(f"runs of different splits cannot be compared: {splits}")
    found = [Ensemble((name,), flip) for name in models for flip in flips(name)]
    if len(models) > 1:
        found.append(Ensemble(tuple(models), True))
    if seeds:
        everything = tuple(dict.fromkeys((*models, *seeds)))
        found += [Ensemble(tuple(seeds), flip) for flip in (False, True)]
        found.append(Ensemble(everything, True))
    return list(dict.fromkeys(found))


def validate(ensembles: Sequence[Ensemble]) -> pd.DataFrame:
    """One row for each of `ensembles`: its measures on the validation set.

    Columns: ``models``, the names of the runs; ``flip TTA``; ``clip ε``, to what range [ε, 1 − ε]
    probabilities are best clipped; ``log loss``, of clipped probabilities; ``accuracy``.
    """
    known: dict = {}
    rows = []
    for ensemble in ensembles:
        labels, probabilities = _average(ensemble, "val", known)
        clip = best_clip(labels, probabilities)
        clipped = np.clip(probabilities, clip, 1 - clip)
        rows.append(
            {
                "models": ", ".join(ensemble.runs),
                "flip TTA": ensemble.flip,
                "clip ε": clip,
                "log loss": log_loss(labels, clipped, labels=[0, 1]),
                "accuracy": np.mean((probabilities > 0.5) == labels),
            }
        )
    return pd.DataFrame(rows)


def best(competition: str, table: pd.DataFrame) -> int:
    """The row of the table of `validate` that is best by the metric of `competition`."""
    if COMPETITIONS[competition].metric == "log_loss":
        return int(table["log loss"].argmin())
    return int(table["accuracy"].argmax())


def average_subset(ensemble: Ensemble, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the average probabilities of "dog" by `ensemble` for ``"val"`` or ``"test"``."""
    return _average(ensemble, subset, {})


def average(ensemble: Ensemble, photos: Sequence[Path]) -> np.ndarray:
    """The average probabilities of "dog" by `ensemble` for photos on disk; see `predict`."""
    return np.mean([predict(name, photos, flip=ensemble.flip) for name in ensemble.runs], axis=0)


def _average(ensemble, subset, known):
    """As `average_subset`; `known` keeps what each run has predicted."""
    predicted = []
    for name in ensemble.runs:
        flip = ensemble.flip if ensemble.flip in flips(name) else flips(name)[0]
        if (name, flip) not in known:
            known[name, flip] = predict_subset(name, subset, flip=flip)
        predicted.append(known[name, flip])
    return predicted[0][0], np.mean([probabilities for _, probabilities in predicted], axis=0)


# --- write --------------------------------------------------------------------------------------


def table(competition: str, ids: Iterable[int], probabilities, *, clip: float) -> pd.DataFrame:
    """The submission: columns ``id``, the photos' numbers, and ``label``, what `competition` takes.

    That is the probability of "dog", clipped to [`clip`, 1 − `clip`], or 0 for a cat and 1 for a
    dog. For a photo that could not be decoded, whose probability is NaN, it is 0.5, the guess whose
    log loss is the same whichever animal it is, or 0.
    """
    probabilities = np.asarray(probabilities, float).reshape(-1)
    probabilities = np.where(np.isnan(probabilities), 0.5, probabilities)
    if COMPETITIONS[competition].probabilities:
        labels = np.clip(probabilities, clip, 1 - clip)
    else:
        labels = (probabilities > 0.5).astype(int)
    return pd.DataFrame({"id": list(ids), "label": labels})


def check(competition: str, submission: pd.DataFrame, sample: pd.DataFrame | None = None) -> None:
    """Raise `ValueError`, saying what was found and expected, unless `submission` is valid.

    Valid is what `competition` accepts. `sample` is its own sample file, where it is at hand: the
    same columns and the same ids, in the same order.
    """
    if list(submission.columns) != ["id", "label"]:
        raise ValueError(f"columns are {list(submission.columns)}: expected id, label")
    repeated = submission.id[submission.id.duplicated()]
    if len(repeated):
        raise ValueError(f"id {repeated.iloc[0]} is there twice: expected each id once")
    wrong = submission[~submission.label.between(0, 1)]
    if len(wrong):
        raise ValueError(f"label {wrong.label.iloc[0]} of id {wrong.id.iloc[0]}: expected 0 to 1")
    between = submission.label[~submission.label.isin([0, 1])]
    if not COMPETITIONS[competition].probabilities and len(between):
        raise ValueError(f"labels such as {between.iloc[0]}: {competition} takes 0 or 1")
    if sample is None:
        return
    missing, extra = set(sample.id) - set(submission.id), set(submission.id) - set(sample.id)
    if missing or extra:
        raise ValueError(
            f"{len(missing)} ids of the sample are missing{_some(missing)}, "
            f"{len(extra)} are not in it{_some(extra)}"
        )
    if list(sample.id) != list(submission.id):
        raise ValueError("the ids are in a different order than in the sample")


def write(
    competition: str, submission: pd.DataFrame, path: Path, sample: Path | None = None
) -> None:
    """Write `submission` to `path`, read it back as Kaggle will, and `check` that.

    Where the check fails, `path` is left as it was.
    """
    expected = read_sample(sample) if sample else None
    with files.replacing(path) as partial:
        submission.to_csv(partial, index=False, lineterminator="\n")
        check(competition, pd.read_csv(partial), expected)


def _some(ids):
    """The first three of `ids`, in brackets."""
    return (
        f" ({', '.join(map(str, sorted(ids)[:3]))}{', …' if len(ids) > 3 else ''})" if ids else ""
    )
