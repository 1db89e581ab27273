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


#: What may follow a convolution and belongs to it.
_BELONGING = (
    keras.layers.BatchNormalization,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.MaxPooling2D,
)


def is_possible(model: keras.Model) -> bool:
    """Whether `gradcam` can explain `model`.

    It has a convolution, and behind it, or behind global average pooling, a chain of layers to one
    unit.
    """
    layers = list(model.layers)
    convolutions = [layer for layer in layers if isinstance(layer, _CONVOLUTIONS)]
    return bool(
        convolutions
        and isinstance(layers[-1], keras.layers.Dense)
        and (_is_chain(model, layers.index(convolutions[-1])) or _averaging(model))
    )


def gradcam(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Grad-CAM heatmaps of `images`, one of shape (height, width) per image, 0 to 1.

    `images` has shape (images, height, width, 3), 0 to 255, as the model takes them; `model` ends
    in a chain of layers to one sigmoid unit (see `is_possible`). A heatmap marks the regions
    that contributed most to the prediction: the channels of the last convolution, each weighted by
    the mean gradient of the predicted class's logit with respect to it. Negative contributions are
    dropped, and each heatmap is scaled to a maximum of 1, so brightness compares regions of one
    image, not images.

    Formula: Selvaraju et al. (2017), "Grad-CAM", equations 1 and 2. Where a pooling layer follows
    the convolution, the gradient is with respect to its output, and the channels are its input.
    Where nothing but global average pooling and one unit follow, these are the class activation
    maps of Zhou et al. (2016), "Learning Deep Features for Discriminative Localization".

    Raises `ValueError` for a model without a convolution.
    """
    layers = list(model.layers)
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, _CONVOLUTIONS)]
    if not convolutions:
        raise ValueError(
            f"model {model.name!r} has no convolution: Grad-CAM needs a convolutional network"
        )
    if _is_chain(model, convolutions[-1]):
        # The gradient is taken after the last convolution's normalization, activation and pooling.
        cut = convolutions[-1] + 1
        while isinstance(layers[cut], _BELONGING):
            cut += 1
        # The heatmap is computed before the pooling, which would leave it a few pixels large.
        finer = layers[convolutions[-1]].output
        for layer in layers[convolutions[-1] + 1 : cut]:
            if not isinstance(layer, keras.layers.MaxPooling2D):
                finer = layer(finer)
    else:  # residual blocks: what is averaged is already a sum of several branches
        cut = _averaging(model)
        finer = layers[cut].input
    features = layers[cut].input
    to_features = keras.Model(model.inputs[0], features)
    to_last = keras.Sequential([keras.Input(features.shape[1:]), *layers[cut:-1]])
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


def _is_chain(model, first):
    """Whether each layer of `model` from `first` on takes the output of the one before."""
    if isinstance(model, keras.Sequential):
        return True
    chain = model.layers[first:]
    return all(after.input is before.output for before, after in zip(chain, chain[1:]))


def _averaging(model):
    """The index of the global average pooling that a chain of layers to the output begins with."""
    averaging = keras.layers.GlobalAveragePooling2D
    found = [i for i, layer in enumerate(model.layers) if isinstance(layer, averaging)]
    return found[-1] if found and _is_chain(model, found[-1]) else None
