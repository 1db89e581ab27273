"""Classify photos with a trained model: files in, answers out."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, tee
from pathlib import Path

import numpy as np

from catsdogs import paths
from catsdogs.analysis.calibration import Calibration
from catsdogs.data.decode import PhotoError, decode_all
from catsdogs.text import printable

#: The endings, in lower case, of the files that are looked for in folders; a file that is named is always tried.
ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
    ".avif",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
)


class ModelError(ValueError):
    """A model file that cannot be used. Its text says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one photo.

    ``photo``: its path as it was given. ``probability``: that it shows a dog, 0 to 1, as the model says; ``confidence``: how
    often such an answer is right, 0.5 to 1 (see `catsdogs.analysis.calibration`); ``label``: ``"cat"``, ``"dog"`` or ``"unsure"``. All
    three are None where the photo could not be read; ``problem`` then says why, in a few words.
    """

    photo: str
    probability: float | None = None
    confidence: float | None = None
    label: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Predictor:
    """A model from a file of any format.

    ``predict`` takes uint8 photos, (photos, size, size, 3), and returns the probability of "dog", (photos,). ``explain``,
    or None where the file cannot, takes the same and returns also where the model looked: (photos, height, width), 0 to 1,
    its strongest part 1 (see `catsdogs.analysis.gradcam`). ``facts`` is what the file says of itself.
    """

    size: int
    predict: Callable[[np.ndarray], np.ndarray]
    explain: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    calibration: Calibration = Calibration()
    facts: dict = field(default_factory=dict)

    def answer(self, photo, probability: float) -> Prediction:
        """The answer for the photo named `photo`, of which the model says `probability`."""
        probability = float(probability)
        return Prediction(
            str(photo),
            probability,
            self.calibration.confidence(probability),
            self.calibration.label(probability),
        )


def load_predictor(
    path: str | os.PathLike | None = None, *, threads: int | None = None
) -> Predictor:
    """The model at `path`, a ``.keras``, ``.onnx`` or ``.tflite`` file; by default the ``.keras`` one that ships.

    ``.onnx`` and ``.tflite`` files are those of `catsdogs.serving.export`; they need no Keras. `threads` is for them, by default as
    many as there are cores.

    Raises `ModelError` for a file that is missing, damaged, of another kind or shape, or needs what is not installed.
    """
    path = Path(path or paths.models() / "cats_vs_dogs.keras")
    loaders = {".keras": _load_keras, ".onnx": _load_onnx, ".tflite": _load_litert}
    if path.suffix not in loaders:
        raise ModelError(
            f"{printable(paths.shown(path))} is no .keras, .onnx or .tflite file; only those are loaded, as others may "
            "run code"
        )
    if not os.path.isfile(path):
        made = (
            "notebook 02 makes one"
            if path.suffix == ".keras"
            else "python -m catsdogs export makes one"
        )
        raise ModelError(
            f"no model {printable(paths.shown(path))}: expected a {path.suffix} file; {made}"
        )
    return loaders[path.suffix](path, threads or os.cpu_count())


def load_model(path: str | os.PathLike | None = None):
    """The Keras model in the ``.keras`` file at `path`, by default the one that ships, loaded in Keras's safe mode.

    Raises `ModelError` for a file that is missing, damaged, or of a model that does not take (photos, size, size, 3) and
    answer with (photos, 1).
    """
    path = Path(path or paths.models() / "cats_vs_dogs.keras")
    if path.suffix != ".keras":
        raise ModelError(
            f"{printable(paths.shown(path))} is no .keras file; only those are loaded, as others may run code"
        )
    if not os.path.isfile(path):
        raise ModelError(
            f"no model {printable(paths.shown(path))}: expected a .keras file; notebook 02 makes one"
        )
    try:
        from catsdogs.backend import keras
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{printable(paths.shown(path))} needs the package {error.name}: pip install -r requirements.txt, or use the "
            ".onnx file beside it"
        ) from None

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        takes, gives = model.input_shape, model.output_shape
    except Exception as error:  # zipfile, h5py, json and Keras raise many kinds for a damaged file
        raise _cannot_be_loaded(path, error, "train with notebook 02") from None
    if not (_is_square(takes) and gives == (None, 1)):
        raise _other_shape(path, takes, gives, "as notebook 02 makes it")
    return model


def _load_keras(path, threads):
    model = load_model(path)

    def predict(images):
        return model.predict_on_batch(images)[:, 0]

    def explain(images):
        from catsdogs.analysis import gradcam

        return predict(images), gradcam.gradcam(model, images)

    return Predictor(
        model.input_shape[1], predict, explain, recorded_calibration(path), {"name": path.stem}
    )


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
        facts = dict(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # ONNX Runtime has many kinds of its own
        raise _cannot_be_loaded(
            path, error, "write it anew with python -m catsdogs export"
        ) from None
    inputs, outputs = (
        session.get_inputs(),
        {output.name: output.shape for output in session.get_outputs()},
    )
    takes = [
        [None if isinstance(length, str) else length for length in one.shape] for one in inputs
    ]
    kinds = [one.type for one in inputs]
    if not (
        kinds == ["tensor(uint8)"]
        and _is_square(takes[0])
        and takes[0][0] is None
        and "probability" in outputs
    ):
        raise _other_shape(
            path,
            f"{', '.join(kinds)} {takes}",
            list(outputs),
            "as python -m catsdogs export writes it",
        )
    # Without this, ONNX Runtime computes the map too when only the probability is asked for.
    only_what_is_asked = onnxruntime.RunOptions()
    only_what_is_asked.only_execute_path_to_fetches = True

    def run(names, images):
        return session.run(names, {inputs[0].name: images}, only_what_is_asked)

    def explain(images):
        probabilities, maps = run(["probability", "map"], images)
        return probabilities[:, 0], maps

    return Predictor(
        takes[0][1],
        lambda images: run(["probability"], images)[0][:, 0],
        explain if "map" in outputs else None,
        _calibration_of(facts),
        facts,
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
        ((entry, takes),) = runner.get_input_details().items()
        ((answer, gives),) = runner.get_output_details().items()
    except Exception as error:  # ValueError, RuntimeError and whatever flatbuffers raises
        raise _cannot_be_loaded(
            path, error, "write it anew with python -m catsdogs export"
        ) from None
    shape = list(takes["shape_signature"])
    if not (_is_square(shape) and gives["shape_signature"][-1] == 1):
        raise _other_shape(
            path, shape, list(gives["shape_signature"]), "as python -m catsdogs export writes it"
        )
    return Predictor(
        int(shape[1]),
        lambda images: runner(**{entry: images.astype(takes["dtype"])})[answer][:, 0],
        calibration=recorded_calibration(path),
        facts={"name": path.stem},
    )


def _is_square(shape):
    return (
        isinstance(shape, (tuple, list))
        and len(shape) == 4
        and bool(shape[1])
        and shape[1] == shape[2]
        and shape[3] == 3
    )


def _cannot_be_loaded(path, error, remedy):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"{printable(paths.shown(path))} cannot be loaded ({printable(lines[0][:200])}): get it again, or {remedy}"
    )


def _other_shape(path, takes, gives, whose):
    return ModelError(
        f"{printable(paths.shown(path))} takes {takes} and answers {gives}: expected a model that takes "
        f"(None, size, size, 3) and answers (None, 1), {whose}"
    )


def recorded_calibration(path):
    """The calibration in the run record beside the model at `path`; without one, the model is taken at its word."""
    try:
        record = json.loads(
            path.with_name(f"{path.stem.removesuffix('_int8')}.json").read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return Calibration()
    return _calibration_of(record.get("calibration") if isinstance(record, dict) else None)


def _calibration_of(facts):
    try:
        found = Calibration(
            **{
                name: float(facts[name])
                for name in ("temperature", "unsure_below")
                if name in facts
            }
        )
    except (TypeError, ValueError):
        return Calibration()
    return found if found.temperature > 0 else Calibration()


def find_photos(given: Iterable[str | os.PathLike]) -> Iterator[Path]:
    """The photos that `given` names: files as they are, folders with all photos below them, ordered by path."""
    for path in map(Path, given):
        # os.path's do not raise where a folder may not be entered or a name is too long; reading then says so.
        if not os.path.isdir(path):
            yield path
            continue
        found = []
        # A folder that may not be read is yielded itself, so that it is named and not passed over.
        for folder, _, names in os.walk(
            path, onerror=lambda error: found.append(Path(error.filename))
        ):
            files = (
                Path(folder, name) for name in names if os.path.splitext(name)[1].lower() in ENDINGS
            )
            found += [file for file in files if os.path.isfile(file) or not os.path.exists(file)]
        yield from sorted(found)


def fetch(address: str, *, seconds: float = 20) -> bytes:
    """The photo at the web address `address`, http or https.

    Raises `catsdogs.data.decode.PhotoError` where there is none, it is larger than a photo may be, or it takes over `seconds`.
    """
    import http.client
    import time
    import urllib.error
    import urllib.request

    from catsdogs.data.decode import MAX_BYTES, PhotoTooLarge

    if not address.lower().startswith(("http://", "https://")):
        raise PhotoError(
            f"{printable(address)}: expected an address that begins with http:// or https://"
        )
    try:
        # Some sites answer nobody who gives no name.
        request = urllib.request.Request(
            address, headers={"User-Agent": "Mozilla/5.0 (compatible; catsdogs)"}
        )
        with urllib.request.urlopen(request, timeout=seconds) as response:
            content, deadline = b"", time.monotonic() + seconds
            while len(content) <= MAX_BYTES and (part := response.read1(1 << 16)):
                content += part
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took over {seconds:g} seconds")
    except (
        OSError,
        ValueError,
        http.client.HTTPException,
    ) as error:  # ValueError is for addresses it cannot parse
        why = (
            error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        )
        raise PhotoError(f"{printable(address)} cannot be fetched: {printable(why)}") from None
    if len(content) > MAX_BYTES:
        raise PhotoTooLarge(f"more than {MAX_BYTES // 10**6} MB")
    return content


def predict_photos(
    predictor: Predictor, photos: Iterable, *, batch_size: int = 64
) -> Iterator[Prediction]:
    """What `predictor` says of each of `photos`, in their order; a photo that cannot be read gets an answer that says so.

    Photos are paths, or (name, bytes). They are decoded on all cores, `batch_size` at a time.
    """
    given, sources = tee(photos)
    decoded = decode_all(
        (photo[1] if isinstance(photo, tuple) else photo for photo in sources),
        predictor.size,
        errors="return",
    )
    while batch := list(islice(decoded, batch_size)):
        good = [pixels for pixels in batch if isinstance(pixels, np.ndarray)]
        probabilities = iter(predictor.predict(np.stack(good)) if good else ())
        for pixels, photo in zip(batch, given):
            name = photo[0] if isinstance(photo, tuple) else photo
            if isinstance(pixels, np.ndarray):
                yield predictor.answer(name, next(probabilities))
            else:
                yield Prediction(str(name), problem=str(pixels))
