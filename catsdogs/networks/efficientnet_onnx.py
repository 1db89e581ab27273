"""Write an EfficientNet-Lite as an ONNX file, for feature extraction with ONNX Runtime.

A writer of its own, because the one in `catsdogs.serving` walks a sequential Keras model: these
blocks have residual connections, and folding batch normalization is simpler from the weights.
"""

import numpy as np

from catsdogs.networks import efficientnet_lite
from catsdogs.networks.efficientnet_lite import EPSILON, HEAD, MEAN, SCALE

#: Versions that ONNX Runtime has supported since 2022, whichever version of onnx is installed.
_OPSET, _IR_VERSION = 17, 8


def to_onnx(network: str, image_size: int | None = None) -> bytes:
    """The EfficientNet-Lite `network`, up to its features, as the content of an ONNX file.

    Input ``photos``: uint8, (images, size, size, 3), RGB. Output ``features``: float32,
    (images, 1280). Batch normalization is folded into the convolution before it, which saves a
    multiplication and an addition per activation. Needs the pip package ``onnx``.

    Raises `catsdogs.networks.torch_weights.WeightsError` where the weights are not installed.
    """
    from onnx import TensorProto, helper

    size = image_size or efficientnet_lite.VARIANTS[network][2]
    graph = _Graph(efficientnet_lite.load_weights(network))
    x = graph.node("Cast", ["photos"], "pixels", to=TensorProto.FLOAT)
    x = graph.node("Sub", [x, graph.constant("mean", MEAN)], "centered")
    x = graph.node("Mul", [x, graph.constant("scale", 1 / SCALE)], "scaled")
    x = graph.node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    x = graph.convolution(x, "_conv_stem", "_bn0", kernel=3, stride=2)
    for index, block in enumerate(efficientnet_lite.blocks(network)):
        x = graph.block(x, f"_blocks.{index}", block)
    x = graph.convolution(x, "_conv_head", "_bn1", kernel=1)
    graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], "features")
    photos = helper.make_tensor_value_info("photos", TensorProto.UINT8, ["n", size, size, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", HEAD])
    made = helper.make_graph(graph.nodes, network, [photos], [features], graph.constants)
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(
        made, opset_imports=[opset], ir_version=_IR_VERSION
    ).SerializeToString()


class _Graph:
    """Nodes and constants of an ONNX graph while it is built; a value is known by its name."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], []
        self.limits = [self.constant("zero", 0.0), self.constant("six", 6.0)]  # of ReLU6

    def constant(self, name, value):
        from onnx import numpy_helper

        value = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind, inputs, name, **options):
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], name, **options))
        return name

    def convolution(self, x, conv, norm, *, kernel, stride=1, groups=1, activation=True):
        """Convolution with batch normalization folded in, and ReLU6."""
        weight, bias = _folded(self.weights, conv, norm)
        inputs = [x, self.constant(f"{conv}.weight", weight), self.constant(f"{conv}.bias", bias)]
        # TensorFlow's "same": odd padding has its larger part on the right and at the bottom.
        x = self.node(
            "Conv",
            inputs,
            conv,
            group=groups,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            auto_pad="SAME_UPPER",
        )
        return self.node("Clip", [x, *self.limits], f"{conv}.relu6") if activation else x

    def block(self, x, prefix, block):
        """An inverted residual block (see `efficientnet_lite.Block`)."""
        inputs = x
        if block.expanded != block.channels_in:
            x = self.convolution(x, f"{prefix}._expand_conv", f"{prefix}._bn0", kernel=1)
        x = self.convolution(
            x,
            f"{prefix}._depthwise_conv",
            f"{prefix}._bn1",
            kernel=block.kernel,
            stride=block.stride,
            groups=block.expanded,
        )
        x = self.convolution(
            x, f"{prefix}._project_conv", f"{prefix}._bn2", kernel=1, activation=False
        )
        return self.node("Add", [x, inputs], f"{prefix}.sum") if block.is_residual else x


def _folded(weights, conv, norm):
    """Kernel, (out, in, height, width), and bias of one convolution equal to `conv` and `norm`."""
    gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
    kernel = weights[f"{conv}.weight"] * gain[:, None, None, None]
    return kernel, weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
