"""Grad-CAM: the regions of a photo that contributed most to the prediction."""

import numpy as np

from catsdogs import backend
from catsdogs.backend import keras

ops = keras.ops

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv2D,
)


def is_possible(model: keras.Model) -> bool:
    """Whether `gradcam` can explain `model`: a convolution, and a chain of layers to one unit."""
    layers = list(model.layers)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, _CONVOLUTIONS)]
    if not convolutions or not isinstance(layers[-1], keras.layers.Dense):
        return False
    head = layers[convolutions[-1] :]
    return isinstance(model, keras.Sequential) or all(
        after.input is before.output for before, after in zip(head, head[1:])
    )


def gradcam(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Grad-CAM heatmaps of `images`, one of shape (height, width) per image, 0 to 1.

    `images` has shape (images, height, width, 3), 0 to 255, as the model takes them; `model` is a
    chain of layers that ends in one sigmoid unit (see `is_possible`). A heatmap marks the regions
    that contributed most to the prediction: the channels of the last convolution, each weighted by
    the mean gradient of the predicted class's logit with respect to it. Negative contributions are
    dropped, and each heatmap is scaled to a maximum of 1, so brightness compares regions of one
    image, not images.

    Formula: Selvaraju et al. (2017), "Grad-CAM", equations 1 and 2. Where a pooling layer follows
    the convolution, the gradient is with respect to its output, and the channels are its input.

    Raises `ValueError` for a model without a convolution.
    """
    layers = list(model.layers)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, _CONVOLUTIONS)]
    if not convolutions:
        raise ValueError(
            f"model {model.name!r} has no convolution: Grad-CAM needs a convolutional network"
        )
    # The gradient is taken after the last convolution's normalization, activation and pooling.
    belonging = (
        keras.layers.BatchNormalization,
        keras.layers.Activation,
        keras.layers.ReLU,
        keras.layers.MaxPooling2D,
    )
    cut = convolutions[-1] + 1
    while isinstance(layers[cut], belonging):
        cut += 1
    to_features = keras.Model(model.inputs[0], layers[cut - 1].output)
    to_last = keras.Sequential([keras.Input(layers[cut - 1].output.shape[1:]), *layers[cut:-1]])
    # The heatmap is computed before the pooling, which would leave it a few pixels large.
    finer = layers[convolutions[-1]].output
    for layer in layers[convolutions[-1] + 1 : cut]:
        if not isinstance(layer, keras.layers.MaxPooling2D):
            finer = layer(finer)
    to_finer = keras.Model(model.inputs[0], finer)

    def logit(features):
        # The logit, not the probability: its gradient does not vanish where the model is confident.
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
