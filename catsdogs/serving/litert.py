"""Write a Keras model as LiteRT files, in float32 and quantized to 8-bit integers."""

from pathlib import Path

import numpy as np

from catsdogs import backend, files
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset
from catsdogs.serving.predictor import ModelError

#: Images in the representative dataset that calibrates the quantization.
REPRESENTATIVE_IMAGES = 512


def to_litert(model: keras.Model, path: Path) -> None:
    """Write `model` as a LiteRT file at `path`; its inputs and outputs are those of `model`.

    Raises `catsdogs.serving.predictor.ModelError` on a backend other than TensorFlow.
    """
    files.write(path, _converted(model, None))


def to_int8_litert(model: keras.Model, path: Path, images: np.ndarray) -> None:
    """Write `model` as a LiteRT file at `path`, quantized after training: int8 weights, int8 math.

    It takes uint8 images and outputs float32 probabilities. `images`, uint8, (images, size, size,
    3), are the representative dataset: the ranges of the network's activations are measured on
    them. Some hundred training images are enough.

    Raises `catsdogs.serving.predictor.ModelError` on a backend other than TensorFlow.
    """
    files.write(path, _converted(model, images))


def representative_images(size: int) -> np.ndarray:
    """`REPRESENTATIVE_IMAGES` images of the training set, the same every time.

    uint8, (images, size, size, 3); all of the training set where it has fewer.
    """
    images = Dataset("full", size).train.images
    count = min(REPRESENTATIVE_IMAGES, len(images))
    return images[np.sort(np.random.default_rng(0).choice(len(images), count, replace=False))]


def _converted(model, images):
    try:
        return backend.to_litert(model, images)
    except NotImplementedError as error:
        raise ModelError(str(error)) from None
