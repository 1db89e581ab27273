"""Small models for the tests that need another than the included ones."""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from catsdogs.networks import cnn, portable
from catsdogs.serving import export


def with_neither(folder: Path) -> np.ndarray:
    """Write a model with a score for "neither" in every format: the brighter, the higher, 0.5 at
    half brightness. Returns 60 images for it, from dark to bright."""
    keras.utils.set_random_seed(0)
    small = cnn.residual(8, filters=(8, 12), blocks=(1, 1))
    base = keras.models.clone_model(small, input_tensors=keras.Input((48, 48, 3)))
    brightness = layers.Dense(1, activation="sigmoid", name="bright")
    pooled = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(base.input))
    outputs = {"probability": base.output, "neither": brightness(pooled)}
    model = keras.Model(base.inputs, outputs)
    brightness.set_weights([np.full((3, 1), 4.0), np.array([-6.0])])
    folder.mkdir(parents=True)
    portable.save(model, folder / "model.keras")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 48, 48, 3)) * np.linspace(0.1, 2, 60).reshape(-1, 1, 1, 1)
    images = np.clip(images, 0, 255).astype(np.uint8)
    export.export(folder / "model.keras", folder, representative_images=lambda size: images)
    return images
