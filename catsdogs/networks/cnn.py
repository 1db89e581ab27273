"""The networks that are trained from scratch: the baseline, two convolutions, residual blocks."""

import inspect
from collections.abc import Callable, Sequence

from catsdogs.backend import keras

layers = keras.layers


def baseline(image_size: int = 64) -> keras.Sequential:
    """The network of the baseline recipe that many repositories share: 32-32-128, one sigmoid unit.

    It takes images (images, image_size, image_size, 3), 0 to 255, and gives the probability of
    "dog", (images, 1).
    """
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(1, activation="sigmoid", dtype="float32"),
        ],
        name="baseline",
    )


def two_conv(
    image_size: int = 128,
    *,
    filters: Sequence[int] = (64, 192),
    kernel_sizes: Sequence[int] = (5, 5),
    strides: int = 2,
    pool_sizes: Sequence[int] = (4, 3),
    pool_strides: Sequence[int] | None = None,
    dense_units: int = 128,
    dropout: float = 0.3,
    activation: str = "relu",
    softmax: bool = False,
) -> keras.Sequential:
    """Two convolutions and a dense layer, with batch normalization: the network of notebook 02.

    It takes images (images, image_size, image_size, 3), 0 to 255, and gives the probability of
    "dog", (images, 1); with `softmax` those of "cat" and of "dog", (images, 2). `activation` is the
    name of a Keras activation function, used behind each batch normalization. Where
    `pool_strides` are smaller than `pool_sizes`, the windows of max pooling overlap (Krizhevsky et
    al., 2012, "ImageNet Classification with Deep Convolutional Neural Networks"); None means that
    they do not.

    Batch normalization and ReLU come after the pooling, where 9 to 16 times fewer activations are
    left to normalize: a step takes half the time, and the network is more accurate
    (benchmarks/RESULTS.md).
    """
    units, last = (2, "softmax") if softmax else (1, "sigmoid")
    pool_strides = pool_strides or pool_sizes
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(
                filters[0], kernel_sizes[0], strides=strides, padding="same", use_bias=False
            ),
            layers.MaxPooling2D(pool_sizes[0], pool_strides[0]),
            layers.BatchNormalization(),
            layers.Activation(activation),
            layers.Conv2D(filters[1], kernel_sizes[1], use_bias=False),
            layers.MaxPooling2D(pool_sizes[1], pool_strides[1]),
            layers.BatchNormalization(),
            layers.Activation(activation),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(dense_units, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation(activation),
            layers.Dropout(dropout),
            layers.Dense(units, activation=last, dtype="float32"),
        ],
        name="cats_vs_dogs",
    )


def residual(
    stem_filters: int = 32,
    *,
    filters: Sequence[int] = (64, 128, 256, 384),
    blocks: Sequence[int] = (1, 1, 1, 1),
    dropout: float = 0.2,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """A ResNet-style network: a stem, stages of residual blocks, global average pooling.

    `filters` and `blocks` are those of each stage. With `stochastic_depth`, the last block is left
    out for that share of the images in training, the first for none, those between in proportion
    (Huang et al., 2016, "Deep Networks with Stochastic Depth").

    It takes images of any size, (images, height, width, 3), 0 to 255, and gives the probability of
    "dog", (images, 1). Every stage but the first halves height and width. After He et al. (2016),
    "Deep Residual Learning for Image Recognition"; the shortcuts are downsampled by average pooling
    instead of strides, as in ResNet-D (T. He et al., 2019, "Bag of Tricks for Image Classification
    with Convolutional Neural Networks").
    """
    images = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(images)
    x = layers.Conv2D(stem_filters, 5, strides=2, padding="same", use_bias=False)(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    done, last = 0, max(sum(blocks) - 1, 1)
    for stage, (width, count) in enumerate(zip(filters, blocks, strict=True)):
        for block in range(count):
            strides = 2 if stage > 0 and block == 0 else 1
            x = residual_block(x, width, strides, stochastic_depth * done / last)
            done += 1
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(
        images, layers.Dense(1, activation="sigmoid", dtype="float32")(x), name="residual"
    )


def residual_block(x, filters: int, strides: int, left_out: float = 0.0):
    """Two 3×3 convolutions, added to the input (the shortcut), which is pooled and widened where it
    has to be. In training, they are left out for the share `left_out` of the images."""
    shortcut = x if strides == 1 else layers.AveragePooling2D(strides, padding="same")(x)
    if x.shape[-1] != filters:
        shortcut = _convolution(shortcut, filters, 1)
    y = layers.Activation("relu")(_convolution(x, filters, 3, strides))
    y = _convolution(y, filters, 3)
    if left_out:
        y = layers.Dropout(left_out, noise_shape=(None, 1, 1, 1))(y)  # of all of an image
    return layers.Activation("relu")(layers.Add()([shortcut, y]))


def _convolution(x, filters, kernel_size, strides=1):
    x = layers.Conv2D(filters, kernel_size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


#: The networks by the name that a run record has under ``NETWORK``.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "baseline": baseline,
    "two_conv": two_conv,
    "residual": residual,
}


def build(hyperparameters: dict) -> keras.Model:
    """The network that `hyperparameters` name (``NETWORK``), built with those of them that it
    takes.

    A parameter of the network is the hyperparameter of the same name in capitals: ``dense_units``
    is ``DENSE_UNITS``.

    Raises `ValueError` for an unknown network.
    """
    name = hyperparameters["NETWORK"]
    if name not in NETWORKS:
        raise ValueError(f"NETWORK is {name!r}: expected one of {', '.join(NETWORKS)}")
    taken = inspect.signature(NETWORKS[name]).parameters
    return NETWORKS[name](
        **{key.lower(): value for key, value in hyperparameters.items() if key.lower() in taken}
    )
