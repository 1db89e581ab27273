"""Classify images and photos with a trained model, whatever its file format."""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from catsdogs import paths
from catsdogs.analysis.calibration import Calibration
from catsdogs.data.decode import decode_all
from catsdogs.serving.models import (
    ModelError,
    different_model,
    find_model,
    name_of,
    record_beside,
)
from catsdogs.text import percent_confident, printable

if TYPE_CHECKING:
    from catsdogs.backend import keras

#: Images per batch, unless the caller says otherwise.
BATCH_SIZE = 64
#: What a network may compute, by name; the first is what every network does.
OUTPUTS = ("probability", "neither")


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one photo.

    ``photo``: the path or name it was given by. ``probability``: that the photo shows a dog, 0 to
    1, as the model outputs it. ``confidence``: the calibrated probability of the more likely class,
    0.5 to 1 (see `catsdogs.analysis.calibration`). ``label``: ``"cat"``, ``"dog"``, ``"neither"``
    or ``"unsure"``. ``neither``: the score by which a photo is "neither", 0 to 1; None for a model
    that has none. For a photo that could not be read, all of these are None and ``error`` says why,
    in a few words.
    """

    photo: str
    probability: float | None = None
    confidence: float | None = None
    label: str | None = None
    error: str = ""
    neither: float | None = None

    @property
    def title(self) -> str:
        """Two lines to put above the photo in a figure."""
        if self.confidence is None:
            return f"no prediction\n{self.error[:30]}"
        if self.label == "neither":
            return f"neither\n{self.neither:.3f} neither"
        confidence = percent_confident(self.confidence)
        return f"{self.label}, {confidence} confidence\n{self.probability:.3f} dog"


@dataclass(frozen=True)
class Predictor:
    """A trained model, loaded from a file of any format by `load_predictor`.

    ``size``: width and height of its input images, in pixels. ``calibration``: turns probabilities
    into confidences and labels. ``facts``: the file's metadata, such as its ``name``.
    ``has_neither``: whether the network has a score for "neither".

    ``predict_batch`` and ``explain_batch`` run the network on one batch; call `predict`, `explain`
    and `run`, which take any number of images. The former returns (images, 1), the probability of
    "dog", or (images, 2), where the network also has a score for "neither"; the latter a pair, that
    and the maps. ``explain_batch`` is None for a file that cannot compute Grad-CAM.
    """

    size: int
    predict_batch: Callable[[np.ndarray], np.ndarray]
    explain_batch: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    calibration: Calibration = Calibration()
    facts: dict = field(default_factory=dict)
    has_neither: bool = False

    @property
    def can_explain(self) -> bool:
        """Whether `explain` is available."""
        return self.explain_batch is not None

    def predict(
        self, images: np.ndarray, *, batch_size: int = BATCH_SIZE, flip: bool = False
    ) -> np.ndarray:
        """The probability of "dog" for each of `images`, shape (images,).

        `images` are uint8, (images, size, size, 3), RGB. With `flip`, the probability is averaged
        with that of the image's horizontal flip (test-time augmentation).

        Raises `ValueError` for images of a different type or shape, and `ModelError` for a model
        whose output is no probability.
        """
        return self.run(images, batch_size=batch_size, flip=flip).probabilities

    def explain(
        self, images: np.ndarray, *, batch_size: int = BATCH_SIZE
    ) -> tuple[np.ndarray, np.ndarray]:
        """The probability of "dog" for each of `images`, as `predict` has it, and Grad-CAM maps.

        Maps are float32, (images, height, width): the regions that contributed most to the
        prediction, 0 to 1, the maximum of each map 1 (see `catsdogs.analysis.gradcam`). Height and
        width are those of the images for a ``.keras`` file, those of the last convolution for an
        ``.onnx`` file.

        Raises `ModelError` for a model whose file has no Grad-CAM (see `can_explain`), and
        `ValueError` for images of a different type or shape.
        """
        found = self.run(images, batch_size=batch_size, maps=True)
        assert found.maps is not None
        return found.probabilities, found.maps

    def run(
        self,
        images: np.ndarray,
        *,
        batch_size: int = BATCH_SIZE,
        flip: bool = False,
        maps: bool = False,
    ) -> "Outputs":
        """All that the network computes for `images`; see `predict` and, for `maps`, `explain`.

        With `flip`, the maps are those of the images as they are.
        """
        explain = self.explain_batch if maps else None
        if maps and explain is None:
            raise ModelError(
                f"the model {self.facts.get('name', '')} has no Grad-CAM: expected a .keras file, "
                "or an .onnx file from python -m catsdogs export; its predict() works"
            )
        scores, heatmaps = [], []
        for batch in self._batches(images, batch_size):
            if explain is not None:
                values, heatmap = explain(batch)
                heatmaps.append(heatmap)
            else:
                values = self.predict_batch(batch)
            if flip:
                flipped = self.predict_batch(np.ascontiguousarray(batch[:, :, ::-1]))
                values = (values + flipped) / 2
            scores.append(self._checked(values))
        found = np.concatenate(scores or [np.empty((0, 1), np.float32)])
        shape = (0, self.size, self.size)
        return Outputs(
            found[:, 0],
            found[:, 1] if found.shape[1] > 1 else None,
            np.concatenate(heatmaps or [np.empty(shape, np.float32)]) if maps else None,
        )

    def prediction(
        self, photo: str | os.PathLike, probability: float, neither: float | None = None
    ) -> Prediction:
        """The `Prediction` for the photo named `photo`, whose probability of "dog" is given.

        `neither` is its score for "neither", if the model has one.
        """
        probability = float(probability)
        return Prediction(
            str(photo),
            probability,
            self.calibration.confidence(probability),
            self.calibration.label(probability, neither),
            neither=None if neither is None else float(neither),
        )

    def _checked(self, values):
        wrong = values[~((values >= 0) & (values <= 1))]  # NaN is not in between either
        if len(wrong):
            raise ModelError(
                f"the model {self.facts.get('name', '')!r} predicts {wrong[0]:g}: expected a "
                "probability, 0 to 1; its training may have diverged, or it has no sigmoid"
            )
        return values

    def _batches(self, images, batch_size):
        if images.dtype != np.uint8 or images.shape[1:] != (self.size, self.size, 3):
            raise ValueError(
                f"images are {images.dtype}, {images.shape}: expected uint8, "
                f"(images, {self.size}, {self.size}, 3); catsdogs.data.decode.decode makes them"
            )
        for start in range(0, len(images), batch_size):
            yield np.ascontiguousarray(images[start : start + batch_size])


class Outputs(NamedTuple):
    """What a network computes for images.

    ``probabilities`` of "dog", (images,); ``neither``: the scores for "neither", (images,), or None
    for a network without; ``maps``: Grad-CAM, (images, height, width), or None if not asked for.
    """

    probabilities: np.ndarray
    neither: np.ndarray | None
    maps: np.ndarray | None

    def of(self, index: int) -> tuple[float, float | None]:
        """The probability and the score for "neither" of one image."""
        neither = None if self.neither is None else float(self.neither[index])
        return float(self.probabilities[index]), neither


# --- files of photos -------------------------------------------------------------------------


def predict_photos(
    predictor: Predictor, photos: Iterable, *, batch_size: int = BATCH_SIZE
) -> Iterator[Prediction]:
    """Classify `photos` with `predictor`: one `Prediction` per photo, in order.

    Photos are paths, or pairs of a name and the file's bytes. They are decoded on all cores. A
    photo that cannot be read yields a `Prediction` whose ``error`` says why.
    """
    for predictions, _ in _predict_in_batches(predictor, photos, batch_size):
        yield from predictions


class Explanation(NamedTuple):
    """What `explain_photos` returns: as many images, predictions and maps as there are photos.

    ``images``: uint8, (photos, size, size, 3); white for a photo that could not be read.
    ``predictions``: one `Prediction` per photo. ``maps``: Grad-CAM maps, float32, (photos, size,
    size), 0 to 1, zero for a photo that could not be read; None for a model without Grad-CAM.
    """

    images: np.ndarray
    predictions: list[Prediction]
    maps: np.ndarray | None


def explain_photos(
    predictor: Predictor, photos: Iterable, *, batch_size: int = BATCH_SIZE
) -> Explanation:
    """Classify `photos`, as `predict_photos` does, and keep the images and their Grad-CAM maps.

    The result is what a figure of the photos needs: see `catsdogs.analysis.plots.photo_grid`.
    """
    predictions, images = [], []
    for some, decoded in _predict_in_batches(predictor, photos, batch_size):
        predictions += some
        images += decoded
    size = predictor.size
    unreadable = np.array([image is None for image in images], bool)
    white = np.full((size, size, 3), 255, np.uint8)
    pixels = np.stack([white if image is None else image for image in images] or [white])
    pixels = pixels[: len(images)]
    if not predictor.can_explain:
        return Explanation(pixels, predictions, None)
    maps = np.zeros((len(images), size, size), np.float32)
    _, found = predictor.explain(pixels[~unreadable], batch_size=batch_size)
    for index, heatmap in zip(np.flatnonzero(~unreadable), found):
        maps[index] = _enlarged(heatmap, size)
    return Explanation(pixels, predictions, maps)


def _predict_in_batches(predictor, photos, batch_size):
    """Batches of predictions and of the images they are for, None for a photo without an image."""
    given, sources = tee(photos)
    decoded = decode_all(
        (photo[1] if isinstance(photo, tuple) else photo for photo in sources),
        predictor.size,
        errors="return",
    )
    while batch := list(islice(decoded, batch_size)):
        good = [image for image in batch if isinstance(image, np.ndarray)]
        found = predictor.run(np.stack(good), batch_size=batch_size) if good else None
        predictions, images, done = [], [], 0
        for image, photo in zip(batch, given):
            name = photo[0] if isinstance(photo, tuple) else photo
            if isinstance(image, np.ndarray):
                predictions.append(predictor.prediction(name, *found.of(done)))
                images.append(image)
                done += 1
            else:  # a PhotoError
                predictions.append(Prediction(str(name), error=str(image)))
                images.append(None)
        yield predictions, images


def _enlarged(heatmap, size):
    if heatmap.shape == (size, size):
        return heatmap
    return np.asarray(Image.fromarray(heatmap).resize((size, size), Image.Resampling.BILINEAR))


# --- loading ---------------------------------------------------------------------------------


def load_predictor(
    model: str | os.PathLike | None = None, *, threads: int | None = None
) -> Predictor:
    """Load `model`: a name, a folder, or a ``.keras``, ``.onnx`` or ``.tflite`` file.

    By default that is the included model; see `catsdogs.serving.models.find_model`. ``.onnx`` and
    ``.tflite`` files are those of `catsdogs.serving.export`; they need no Keras. `threads`, by
    default one per core, is how many ONNX Runtime and LiteRT use.

    Raises `ModelError` for a file that is missing, damaged, of an unexpected type or shape, or
    needs a package that is not installed.
    """
    path = find_model(model)
    loaders = {".keras": _load_keras, ".onnx": _load_onnx, ".tflite": _load_litert}
    return loaders[path.suffix](path, threads or os.cpu_count())


def load_model(model: str | os.PathLike | None = None) -> "keras.Model":
    """Load the Keras model `model`, a name, a folder or a ``.keras`` file, in Keras's safe mode.

    By default that is the included model. The file may come from anyone: safe mode refuses
    layers that would run code of its own. (`catsdogs.training.records.load_model` is for runs of
    this project: it checks the file against the run's record.)

    Raises `ModelError` for a file that is missing, damaged or of a newer Keras, or of a model with
    an input shape other than (None, size, size, 3), an output shape other than (None, 1) or one of
    that shape for each of `OUTPUTS`, or anything else that `catsdogs.serving.contract` rules out.
    """
    path = find_model(model, (".keras",))
    try:
        from catsdogs.backend import keras
        from catsdogs.serving import contract
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{printable(paths.shown(path))} needs the package {error.name}: "
            "pip install -r requirements.txt, or use the .onnx file beside it"
        ) from None
    try:
        loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
        named = contract.named_outputs(loaded)
        inputs, outputs = loaded.input_shape, loaded.output_shape
        outputs = {name: output.shape for name, output in named.items()} or outputs
    except Exception as error:  # zipfile, h5py, json and Keras each raise their own for damage
        raise _keras_not_loaded(path, error, keras.__version__) from None
    shapes = list(outputs.values()) if set(named) == set(OUTPUTS) else [outputs]
    if not (_is_square(inputs) and all(shape == (None, 1) for shape in shapes)):
        raise _wrong_shape(path, inputs, outputs, "such as notebook 02 trains")
    if wrong := contract.violation(loaded):
        raise ModelError(f"{printable(paths.shown(path))} {printable(wrong)}")
    return loaded


def keras_predictor(
    model: "keras.Model", calibration: Calibration = Calibration(), facts: dict | None = None
) -> Predictor:
    """A `Predictor` that runs the Keras model `model`, such as one of a run record.

    Input (None, size, size, 3), output (None, 1): the probability of "dog"; or, by name,
    ``probability`` and ``neither``, each (None, 1).
    """

    def predict_batch(images):
        found = model.predict_on_batch(images)
        if isinstance(found, dict):
            return np.hstack([found[name] for name in OUTPUTS])
        return found

    from catsdogs.analysis import gradcam
    from catsdogs.backend import keras
    from catsdogs.serving import contract

    named = contract.named_outputs(model)
    explained = keras.Model(model.inputs, named[OUTPUTS[0]]) if named else model

    def explain_batch(images):
        return predict_batch(images), gradcam.gradcam(explained, images)

    explain = explain_batch if gradcam.is_possible(explained) else None
    size, has_neither = model.input_shape[1], bool(named)
    return Predictor(size, predict_batch, explain, calibration, facts or {}, has_neither)


def recorded_calibration(path: Path) -> Calibration:
    """The calibration in the run record beside the model at `path`.

    Without a record, or with one that has none, that is a temperature of 1, which leaves
    probabilities as they are.
    """
    return _calibration_of(record_beside(path).get("calibration"))


def _load_keras(path, threads):
    return keras_predictor(load_model(path), recorded_calibration(path), {"name": name_of(path)})


def _load_onnx(path, threads):
    try:
        import onnxruntime
    except ImportError:
        raise ModelError(
            f"{printable(paths.shown(path))} needs ONNX Runtime: pip install onnxruntime"
        ) from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while they wait would take the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        facts = {"name": name_of(path)} | session.get_modelmeta().custom_metadata_map
    except Exception as error:  # ONNX Runtime has many kinds of its own
        raise _not_loaded(path, _reason(error), _EXPORT_AGAIN) from None
    inputs = session.get_inputs()
    outputs = {one.name: one.shape for one in session.get_outputs()}
    types = [one.type for one in inputs]
    shapes = [[None if isinstance(side, str) else side for side in one.shape] for one in inputs]
    if not (
        types == ["tensor(uint8)"]
        and _is_square(shapes[0])
        and shapes[0][0] is None
        and outputs.get("probability", [])[1:] == [1]
        and outputs.get("neither", [0, 1])[1:] == [1]
    ):
        raise _wrong_shape(path, f"{', '.join(types)} {shapes}", outputs, _SUCH_AS_EXPORTED)
    record = record_beside(path)
    if record and facts.get("model_sha256") != record.get("model_sha256"):
        raise different_model(path)
    # Without this, ONNX Runtime would compute the map even when only the probability is fetched.
    run_options = onnxruntime.RunOptions()
    run_options.only_execute_path_to_fetches = True

    def run(names, images):
        return session.run(names, {inputs[0].name: images}, run_options)

    names = [name for name in OUTPUTS if name in outputs]

    def explain_batch(images):
        *values, maps = run([*names, "map"], images)
        return np.hstack(values), maps

    return _tried(
        path,
        Predictor(
            shapes[0][1],
            lambda images: np.hstack(run(names, images)),
            explain_batch if "map" in outputs else None,
            # The record is newer than the file where notebook 03 ran after the export.
            _calibration_of(record.get("calibration") or facts),
            facts,
            "neither" in names,
        ),
    )


def _load_litert(path, threads):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ModelError(
            f"{printable(paths.shown(path))} needs LiteRT: pip install ai-edge-litert"
        ) from None
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        runner = interpreter.get_signature_runner()
        ((input_name, input_details),) = runner.get_input_details().items()
        outputs = runner.get_output_details()
    except Exception as error:  # ValueError, RuntimeError and whatever flatbuffers raises
        raise _not_loaded(path, _reason(error), _EXPORT_AGAIN) from None
    inputs = list(input_details["shape_signature"])
    shapes = {name: list(details["shape_signature"]) for name, details in outputs.items()}
    # A file does not say what its pixels should be: those with these names take 0 to 255.
    named = input_name == "photos" and {"probability"} <= set(shapes) <= set(OUTPUTS)
    if not (named and _is_square(inputs) and all(one[1:] == [1] for one in shapes.values())):
        raise _wrong_shape(path, f"{input_name} {inputs}", shapes, _SUCH_AS_EXPORTED)
    names = [name for name in OUTPUTS if name in shapes]

    def predict_batch(images):
        found = runner(**{input_name: images.astype(input_details["dtype"])})
        return np.hstack([found[name] for name in names])

    return _tried(
        path,
        Predictor(
            int(inputs[1]),
            predict_batch,
            calibration=recorded_calibration(path),
            facts={"name": name_of(path)},
            has_neither="neither" in names,
        ),
    )


def _tried(path, predictor):
    """`predictor`, once it has predicted probabilities for a black, a white and a random image."""
    size = predictor.size
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    images[0], images[1] = 0, 255
    try:
        predictor.predict(images)
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime and LiteRT have many kinds of their own
        raise _not_loaded(path, _reason(error), _EXPORT_AGAIN) from None
    return predictor


def _is_square(shape):
    return (
        isinstance(shape, (tuple, list))
        and len(shape) == 4
        and bool(shape[1])
        and shape[1] == shape[2]
        and shape[3] == 3
    )


_EXPORT_AGAIN = "export it again with python -m catsdogs export"
_SUCH_AS_EXPORTED = (
    "with the input photos and the output probability, such as python -m catsdogs export writes"
)


def _not_loaded(path, reason, remedy):
    return ModelError(
        f"{printable(paths.shown(path))} cannot be loaded ({printable(reason)}): {remedy}"
    )


def _reason(error):
    """Why a file could not be loaded, in one line.

    Keras wraps an error in others that quote all of a layer's arguments: the cause comes last.
    """
    reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())
    reason = reason or type(error).__name__
    return reason if len(reason) <= 300 else f"{reason[:100]} … {reason[-200:]}"


def _keras_not_loaded(path, error, installed):
    """The `ModelError` for a ``.keras`` file that Keras, whose version is `installed`, refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None
            saved = str(json.loads(archive.read("metadata.json"))["keras_version"])
    except Exception:  # zipfile, zlib and json each raise their own
        intact = False
    if not intact:
        return _not_loaded(
            path, "it is no complete .keras file", "get it again, or train with notebook 02"
        )
    if _numbers(saved) > _numbers(installed):
        remedy = f"Keras {saved} saved it, and this is {installed}: pip install -U 'keras>={saved}'"
    else:
        remedy = "expected a model of Keras's own layers, such as notebook 02 trains"
    return _not_loaded(path, _reason(error), remedy)


def _numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _wrong_shape(path, inputs, outputs, example):
    return ModelError(
        f"{printable(paths.shown(path))} has the input {inputs} and the output {outputs}: expected "
        f"a model with the input shape (None, size, size, 3) and the output shape (None, 1), "
        f"{example}"
    )


def _calibration_of(facts):
    names = ("temperature", "unsure_below")
    try:
        found = Calibration(**{name: float(facts[name]) for name in names if name in facts})
    except (TypeError, ValueError):
        return Calibration()
    return found if found.temperature > 0 else Calibration()
