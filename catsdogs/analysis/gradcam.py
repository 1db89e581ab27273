"""Grad-CAM: which parts of a photo spoke for the answer."""

import numpy as np

from catsdogs import backend
from catsdogs.backend import keras

ops = keras.ops


def gradcam(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Where `model` looked: for each of `images`, a map of shape (height, width), 0 to 1.

    `images` are (photos, height, width, 3), 0 to 255, as the model takes them; `model` is a
    `keras.Sequential` that ends in one sigmoid unit. The maps are those of the last convolution: each of
    its channels is weighted with the mean gradient of the answer's logit, for "dog" where the model says
    dog and for "cat" where it says cat; what speaks for the answer is kept, and scaled so that the
    strongest part of a photo is 1.

    Formula: Selvaraju et al. (2017), "Grad-CAM", equations 1 and 2; the gradient is that after a pooling that follows
    the convolution, the channels are those before it.

    Raises `ValueError` for a model without a convolution.
    """
    layers = list(model.layers)
    convolutions = [
        i
        for i, layer in enumerate(layers)
        if isinstance(
            layer, (keras.layers.Conv2D, keras.layers.SeparableConv2D, keras.layers.DepthwiseConv2D)
        )
    ]
    if not convolutions:
        raise ValueError(f"model {model.name!r} has no convolution, which Grad-CAM needs")
    # The gradient is taken after the normalization, activation and pooling that belong to the last convolution.
    belonging = (
        keras.layers.BatchNormalization,
        keras.layers.Activation,
        keras.layers.ReLU,
        keras.layers.MaxPooling2D,
    )
    cut = convolutions[-1] + 1
    while isinstance(layers[cut], belonging):
        cut += 1
    to_features = keras.Model(model.inputs, layers[cut - 1].output)
    to_last = keras.Sequential([keras.Input(layers[cut - 1].output.shape[1:]), *layers[cut:-1]])
    # The map itself is drawn without the pooling, which would leave it a few pixels large.
    finer = layers[convolutions[-1]].output
    for layer in layers[convolutions[-1] + 1 : cut]:
        if not isinstance(layer, keras.layers.MaxPooling2D):
            finer = layer(finer)
    to_finer = keras.Model(model.inputs, finer)

    def logit(features):
        # The logit, not the probability: its gradient does not vanish where the model is sure.
        value = ops.matmul(to_last(features, training=False), layers[-1].kernel) + layers[-1].bias
        return value * ops.stop_gradient(ops.sign(value))

    size, images = images.shape[1:3], ops.convert_to_tensor(images, "float32")
    features = ops.stop_gradient(to_features(images, training=False))
    weights = ops.mean(backend.gradient(logit, features), axis=(1, 2), keepdims=True)
    maps = ops.relu(
        ops.sum(
            weights * ops.stop_gradient(to_finer(images, training=False)), axis=-1, keepdims=True
        )
    )
    maps = ops.convert_to_numpy(ops.image.resize(maps, size, interpolation="bilinear"))[..., 0]
    return maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-9)
