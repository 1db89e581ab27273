"""Export a trained model in every format, and measure how far each differs from the original."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from catsdogs import files, paths
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset, is_synthetic
from catsdogs.data.decode import RESIZING
from catsdogs.networks import portable
from catsdogs.serving import contract, litert, onnx
from catsdogs.serving.models import ModelError, name_of, record_beside
from catsdogs.serving.predictor import (
    keras_predictor,
    load_model,
    load_predictor,
    recorded_calibration,
)
from catsdogs.text import printable


def export(
    model_path: Path,
    folder: Path,
    *,
    representative_images: Callable[[int], np.ndarray] | None = None,
) -> list[Path]:
    """Export the model at `model_path`, a ``.keras`` file, into `folder`; returns the files' paths.

    Of ``model.keras``, these are ``model.onnx`` (see `catsdogs.serving.onnx`), ``model.tflite``
    and, with `representative_images`, the 8-bit ``model_int8.tflite`` (see
    `catsdogs.serving.litert`); last, ``model.h5``, for Keras 2 (see `catsdogs.networks.portable`).
    `representative_images` is a function that takes the model's input size and returns some hundred
    training images.

    Raises `catsdogs.serving.predictor.ModelError` for a model that cannot be used or exported.
    """
    model = load_model(model_path)
    folder.mkdir(parents=True, exist_ok=True)
    name = model_path.stem
    written = [folder / f"{name}.onnx", folder / f"{name}.tflite"]
    _to_onnx(model, model_path, written[0])
    litert.to_litert(model, written[1])
    if representative_images is not None:
        written.append(folder / f"{name}_int8.tflite")
        litert.to_int8_litert(model, written[2], representative_images(model.input_shape[1]))
    written.append(folder / f"{name}.h5")
    portable.save(model, written[-1])
    return written


def _to_onnx(model, model_path, path):
    """Write `model`, that of the file `model_path`, as ONNX at `path`, and compare the two."""
    onnx.to_onnx(model, path, describe(model_path, model))
    written, rng = load_predictor(path), np.random.default_rng(0)
    brightest = np.linspace(16, 255, 16).reshape(-1, 1, 1, 1)
    images = (rng.random((16, written.size, written.size, 3)) * brightest).astype(np.uint8)
    difference = abs(written.predict(images) - keras_predictor(model).predict(images)).max()
    if difference > 1e-3:
        path.unlink()
        raise ModelError(
            f"{printable(paths.shown(model_path))} cannot be written as ONNX: it would predict "
            f"differently, by up to {difference:.2g}; expected a network of Keras's own layers, "
            "such as those of notebook 02"
        )


def onnx_beside(path: Path) -> Path:
    """Export the Keras model in the file `path` as ONNX, beside it; returns that file's path.

    Raises `ModelError` for a model that cannot be exported, or where a file is in the way: it may
    be of a different model.
    """
    written = path.with_suffix(".onnx")
    if written.exists():
        raise ModelError(
            f"{printable(paths.shown(path))} is not an .onnx file, which the service needs: "
            f"expected the name of a model, or {printable(paths.shown(written))}"
        )
    network = load_model(path)
    _to_onnx(network, path, written)
    print(f"exported {printable(paths.shown(written))}")
    return written


def compare(model_path: Path, written: list[Path], images: np.ndarray) -> dict[str, dict]:
    """How far the predictions of the files in `written` differ from those of `model_path`.

    An ``.h5`` file is left out: `load_predictor` loads none. `images`: uint8, (images, size, size,
    3). The result maps each file's name to its ``bytes``, the ``largest_difference`` of a
    probability, and ``same_label``: the share of images for which both predict the same class.
    """
    expected, found = load_predictor(model_path).predict(images), {}
    for path in (one for one in written if one.suffix != ".h5"):
        given = load_predictor(path).predict(images)
        found[path.name] = {
            "bytes": path.stat().st_size,
            "largest_difference": float(abs(given - expected).max()),
            "same_label": float(((given >= 0.5) == (expected >= 0.5)).mean()),
        }
    return found


def export_and_compare(model_path: Path, folder: Path) -> dict[str, dict]:
    """Export the model at `model_path` into `folder` and print how far the files differ from it.

    Comparing, and the 8-bit file, need real photos in ``data/``. Returns `compare`'s result on the
    test set; empty without real photos.
    """
    real = paths.photos().exists() and not is_synthetic()
    written = export(
        model_path, folder, representative_images=litert.representative_images if real else None
    )
    found, tests = {}, np.empty(0)
    if real:
        tests = Dataset("full", load_predictor(written[0]).size).test.images
        found = compare(model_path, written, tests)
    for path in written:
        line = f"{paths.shown(path)}: {path.stat().st_size / 1e6:.2f} MB"
        if path.name in found:
            difference = found[path.name]["largest_difference"]
            line += (
                f"; on {len(tests):,} test photos, probabilities differ by at most "
                f"{difference:.2g}, and {found[path.name]['same_label']:.2%} get the same label"
            )
        print(line)
    if not real:
        print(
            "No 8-bit LiteRT file: quantization needs real training photos as its representative "
            "dataset, and data/ has none."
        )
    return found


def describe(model_path: Path, model: keras.Model) -> dict[str, str]:
    """The metadata of an exported file.

    ``name`` and ``model_sha256`` identify the ``.keras`` file, ``resizing`` the preprocessing,
    ``temperature`` and ``unsure_below`` are its calibration, and ``about`` describes the model in
    a few sentences, with its test accuracy where the run record beside `model_path` has one.
    """
    digest = files.sha256(model_path)
    calibration = recorded_calibration(model_path)
    record = record_beside(model_path)
    return {
        "name": name_of(model_path),
        "model_sha256": digest,
        "resizing": RESIZING,
        "temperature": repr(calibration.temperature),
        "unsure_below": repr(calibration.unsure_below),
        "about": _about(model.count_params(), record, bool(contract.named_outputs(model))),
    }


def _about(parameters, record, has_neither):
    about = f"A convolutional neural network with {parameters:,} parameters"
    if not record:
        about += " that classifies photos as cat or dog."
    else:
        photos = "synthetic photos" if record["data"]["source"] == "synthetic" else "photos"
        about += f", trained on {record['data']['photos']['train']:,} {photos} of cats and dogs."
        if test := record["metrics"].get("test"):
            accuracy = test["accuracy"]
            about += (
                f" Its test accuracy is {accuracy['value']:.1%} (95% CI {accuracy['low']:.1%} to "
                f"{accuracy['high']:.1%}, n = {test['photos']:,})."
            )
    if has_neither:
        return about + ' A photo without a cat or a dog is "neither", where it can tell.'
    return about + " It knows nothing else: shown a chair, it still predicts cat or dog."
