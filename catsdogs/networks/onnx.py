"""Write a Keras model as an ONNX file: any graph of the layers that our networks are made of.

Keras can export ONNX itself, but on TensorFlow only with a package that it has to patch for current
versions of NumPy, and without a second output. Our networks need some twenty kinds of layers; with
the `onnx` package, each is a line or two.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from catsdogs.backend import keras

layers = keras.layers

#: The version of ONNX's operator set and of its file format: old enough for every runtime in use.
OPSET, IR_VERSION = 17, 8


class UnsupportedLayerError(ValueError):
    """A layer that cannot be written as ONNX. Its text says which, and what was expected."""


class Step(NamedTuple):
    """A layer, the names of the values that it takes, and that of the value it gives."""

    layer: keras.layers.Layer
    inputs: list[str]
    output: str


class Graph:
    """The ONNX graph of a Keras `model`, to which more can be added.

    ``steps``: the layers, from the input on; those of models inside `model` are among them.
    ``outputs``: what the model gives, by the names of its outputs, or ``"output"`` where they have
    none. Values that are images have ONNX's order, (images, channels, height, width). The graph's
    own input is ``photos``: uint8, (images, height, width, 3), RGB.

    Raises `UnsupportedLayerError`.
    """

    def __init__(self, model: keras.Model):
        self.nodes: list = []
        self.weights: list = []
        self.size = model.input_shape[1:3]
        self.steps: list[Step] = []
        self.shapes: dict[str, tuple] = {}  # in Keras's order, as far as they are known
        # Of a convolution that a batch normalization can still be folded into, by its output.
        self._foldable: dict[str, tuple[keras.Layer, str, np.ndarray, int]] = {}
        pixels = self.add("Transpose", "photos", perm=[0, 3, 1, 2])
        found = self._model(model, [self.add("Cast", pixels, to=_float32())])
        sequential = isinstance(model, keras.Sequential)
        named = not sequential and isinstance(model.output, dict)
        self.outputs = dict(zip(model.output if named else ["output"], found, strict=True))

    def add(self, operator: str, *inputs: str, **attributes) -> str:
        """Append a node; returns the name of its output."""
        import onnx

        name = f"value{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, array, dtype=np.float32) -> str:
        """Append a constant; returns its name."""
        import onnx

        name = f"weight{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def write(
        self, name: str, outputs: dict[str, tuple[str, list]], facts: dict[str, str]
    ) -> bytes:
        """The content of an ONNX file called `name`, with `facts` as its metadata.

        `outputs` maps the names of its outputs to the value that each is, float32, and its shape.
        """
        import onnx

        for output, (value, _) in outputs.items():
            self.nodes.append(onnx.helper.make_node("Identity", [value], [output]))
        nodes, weights = self._needed(outputs)
        made = onnx.helper.make_graph(
            nodes,
            name,
            [
                onnx.helper.make_tensor_value_info(
                    "photos", onnx.TensorProto.UINT8, ["photos", *self.size, 3]
                )
            ],
            [
                onnx.helper.make_tensor_value_info(output, _float32(), shape)
                for output, (_, shape) in outputs.items()
            ],
            weights,
        )
        written = onnx.helper.make_model(
            made,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="catsdogs",
        )
        onnx.helper.set_model_props(written, {key: str(fact) for key, fact in facts.items()})
        onnx.checker.check_model(written, full_check=True)
        return written.SerializeToString()

    def apply(self, layer: keras.layers.Layer, *inputs: str, fold: bool = False) -> str:
        """Append a Keras `layer` that takes `inputs`; returns the name of its output.

        With `fold`, batch normalization behind a convolution that nothing else uses becomes part of
        it, which saves a multiplication and an addition per activation.

        Raises `UnsupportedLayerError`.
        """
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise UnsupportedLayerError(
                f"layer {layer.name!r} has the data format {layer.data_format!r}, which cannot be "
                "written as ONNX: expected 'channels_last'"
            )
        foldable = isinstance(layer, layers.BatchNormalization) and layer.axis in (-1, 3)
        if fold and foldable and inputs[0] in self._foldable:
            return self._convolution(*self._foldable.pop(inputs[0]), layer)
        writer = _WRITERS.get(type(layer))  # of a subclass, nobody knows what it does
        if writer is None:
            raise UnsupportedLayerError(
                f"layer {layer.name!r}, a {type(layer).__name__}, cannot be written as ONNX: "
                f"expected one of {', '.join(sorted(kind.__name__ for kind in _WRITERS))}"
            )
        return writer(self, layer, *inputs)

    def activation(self, layer: keras.layers.Layer, value: str) -> str:
        """Append the activation function of `layer`."""
        name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
        if name not in _ACTIVATIONS:
            raise UnsupportedLayerError(
                f"layer {layer.name!r} has the activation {name!r}, which cannot be written as "
                f"ONNX: expected one of {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name](self, value)

    def _needed(self, outputs):
        """The nodes and weights that `outputs` depend on."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                nodes.append(node)
                needed.update(node.input)
        return nodes[::-1], [weight for weight in self.weights if weight.name in needed]

    def _model(self, model, inputs):
        """Append all layers of `model`, applied to `inputs`; returns its outputs."""
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs)
        # A functional model's configuration says which layer takes what, in the order of the graph.
        config, found = model.get_config(), {}
        if "input_layers" not in config:
            raise UnsupportedLayerError(
                f"the model {model.name!r} has code of its own and cannot be written as ONNX: "
                "expected a functional or a sequential model"
            )
        for (name, *_), value in zip(_keys(config["input_layers"]), inputs, strict=True):
            found[name, 0, 0] = value
        calls = deque(
            (entry, call, node, _keras_tensors(node["args"]))
            for entry in config["layers"]
            for call, node in enumerate(entry["inbound_nodes"])
        )
        while calls:
            entry, call, node, tensors = calls.popleft()
            if not all(
                key in found for key, _ in tensors
            ):  # the second call of a layer, for example
                calls.append((entry, call, node, tensors))
                continue
            given = [found[key] for key, _ in tensors]
            self.shapes |= {found[key]: shape for key, shape in tensors}
            layer = _layer(model, entry)
            if isinstance(layer, keras.Model):
                for index, value in enumerate(self._model(layer, given)):
                    found[entry["name"], call, index] = value
            else:
                value = self.apply(layer, *given, fold=_is_only_use(config, node))
                if value not in given:  # as that of dropout is
                    self.steps.append(Step(layer, given, value))
                found[entry["name"], call, 0] = value
        return [found[key] for key in _keys(config["output_layers"])]

    def padding(self, layer: keras.layers.Layer, value: str, window: tuple[int, int]) -> list[int]:
        """The pixels that `layer` adds around `value`, in ONNX's order: top, left, bottom, right.

        Of an odd number, Keras adds the larger part on the right and at the bottom.
        """
        if layer.padding == "valid":
            return [0, 0, 0, 0]
        before, after = [], []
        dilations = getattr(layer, "dilation_rate", (1, 1))
        for length, kernel, stride, dilation in zip(
            self.shapes[value][1:3], window, layer.strides, dilations, strict=True
        ):
            if length is None:
                raise UnsupportedLayerError(
                    f"layer {layer.name!r} takes images of any size, which cannot be written as "
                    "ONNX: expected a model for images of one size"
                )
            span = (kernel - 1) * dilation + 1
            total = max((-(-length // stride) - 1) * stride + span - length, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return before + after

    def _convolution(self, layer, value, kernel, group, normalization=None):
        bias = _array(layer.bias) if layer.use_bias else None
        if normalization is not None:
            scale, shift = scale_and_shift(normalization)
            kernel = kernel * scale[:, None, None, None]
            bias = shift if bias is None else bias * scale + shift
        inputs = [value, self.weight(kernel)] + ([] if bias is None else [self.weight(bias)])
        padding = self.padding(layer, value, kernel.shape[2:])
        convolved = self.add(
            "Conv",
            *inputs,
            strides=layer.strides,
            dilations=layer.dilation_rate,
            group=group,
            pads=padding,
        )
        return self.activation(layer, convolved)


def to_onnx(model: keras.Model, output: str) -> bytes:
    """`model` as the content of an ONNX file with one output, called `output`.

    Input ``photos``: uint8, (images, height, width, 3), RGB. Needs the pip package ``onnx``.

    Raises `UnsupportedLayerError`.
    """
    graph = Graph(model)
    shape = ["photos", *model.output_shape[1:]]
    return graph.write(model.name, {output: (graph.outputs["output"], shape)}, {})


def scale_and_shift(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """What trained batch normalization multiplies each channel by, and what it adds."""
    mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
    scale = (_array(layer.gamma) if layer.scale else 1) / np.sqrt(variance + layer.epsilon)
    return scale, (_array(layer.beta) if layer.center else 0) - mean * scale


# --- the layers: each takes the graph, itself and its inputs --------------------------------------


def _conv2d(graph, layer, value):
    kernel = _array(layer.kernel).transpose(3, 2, 0, 1)
    return _foldable(graph, layer, value, kernel, layer.groups)


def _depthwise(graph, layer, value):
    # (height, width, channels, multiplier): ONNX has one filter per output channel.
    height, width, channels, multiplier = layer.kernel.shape
    kernel = _array(layer.kernel).reshape(height, width, 1, channels * multiplier)
    return _foldable(graph, layer, value, kernel.transpose(3, 2, 0, 1), channels)


def _foldable(graph, layer, value, kernel, group):
    convolved = graph._convolution(layer, value, kernel, group)
    if getattr(layer.activation, "__name__", "") == "linear":
        graph._foldable[convolved] = layer, value, kernel, group
    return convolved


def _rescaling(graph, layer, value):
    # One number, or one per channel.
    scale, offset = (np.reshape(given, (-1, 1, 1)) for given in (layer.scale, layer.offset))
    return graph.add("Add", graph.add("Mul", value, graph.weight(scale)), graph.weight(offset))


def _standardization(graph, layer, value):
    if layer.invert or layer.axis not in ((-1,), (3,)):
        raise UnsupportedLayerError(
            f"layer {layer.name!r} cannot be written as ONNX: expected a Normalization of the "
            "channels, not inverted"
        )
    mean, variance = (_array(given).reshape(-1, 1, 1) for given in (layer.mean, layer.variance))
    centered = graph.add("Sub", value, graph.weight(mean))
    scale = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return graph.add("Div", centered, graph.weight(scale))


def _pooling(operator, **options):
    def write(graph, layer, value):
        pads = graph.padding(layer, value, layer.pool_size)
        return graph.add(
            operator,
            value,
            kernel_shape=layer.pool_size,
            strides=layer.strides,
            pads=pads,
            **options,
        )

    return write


def _global_pooling(operator):
    def write(graph, layer, value):
        pooled = graph.add(operator, value)
        return pooled if layer.keepdims else graph.add("Flatten", pooled)

    return write


def _normalization(graph, layer, value):
    if layer.axis not in (-1, len(graph.shapes[value]) - 1):
        raise UnsupportedLayerError(
            f"layer {layer.name!r} normalizes axis {layer.axis}, which cannot be written as ONNX: "
            "expected the channels, axis -1"
        )
    scale, shift = scale_and_shift(layer)
    if len(graph.shapes[value]) == 4:  # one value per channel, broadcast over height and width
        scale, shift = scale[:, None, None], shift[:, None, None]
    return graph.add("Add", graph.add("Mul", value, graph.weight(scale)), graph.weight(shift))


def _relu(graph, layer, value):
    if layer.threshold:
        raise UnsupportedLayerError(
            f"layer {layer.name!r} has a threshold, which cannot be written as ONNX: expected 0"
        )
    if layer.max_value is not None and not layer.negative_slope:
        return graph.add("Clip", value, graph.weight(0.0), graph.weight(layer.max_value))
    if layer.max_value is not None:
        raise UnsupportedLayerError(
            f"layer {layer.name!r} has a maximum and a negative slope, which cannot be written as "
            "ONNX: expected one of the two"
        )
    return (
        graph.add("LeakyRelu", value, alpha=float(layer.negative_slope))
        if (layer.negative_slope)
        else graph.add("Relu", value)
    )


def _flatten(graph, layer, value):
    # In Keras's order, so that the next layer's weights can be used unchanged.
    if len(graph.shapes[value]) == 4:
        value = graph.add("Transpose", value, perm=[0, 2, 3, 1])
    return graph.add("Flatten", value)


def _dense(graph, layer, value):
    if len(graph.shapes[value]) != 2:
        raise UnsupportedLayerError(
            f"layer {layer.name!r} takes values of shape {graph.shapes[value]}, which cannot be "
            "written as ONNX: expected a Flatten or a global pooling before it"
        )
    product = graph.add("MatMul", value, graph.weight(_array(layer.kernel)))
    if layer.use_bias:
        product = graph.add("Add", product, graph.weight(_array(layer.bias)))
    return graph.activation(layer, product)


def _zero_padding(graph, layer, value):
    (top, bottom), (left, right) = layer.padding
    pads = graph.weight([0, 0, top, left, 0, 0, bottom, right], np.int64)
    return graph.add("Pad", value, pads)


def _sum(graph, layer, *values):
    total = values[0]
    for value in values[1:]:
        total = graph.add("Add", total, value)
    return total


_WRITERS: dict[type, Callable[..., str]] = {
    layers.Rescaling: _rescaling,
    layers.Normalization: _standardization,
    layers.Conv2D: _conv2d,
    layers.DepthwiseConv2D: _depthwise,
    layers.MaxPooling2D: _pooling("MaxPool"),
    layers.AveragePooling2D: _pooling("AveragePool", count_include_pad=0),
    layers.GlobalAveragePooling2D: _global_pooling("GlobalAveragePool"),
    layers.GlobalMaxPooling2D: _global_pooling("GlobalMaxPool"),
    layers.BatchNormalization: _normalization,
    layers.Activation: lambda graph, layer, value: graph.activation(layer, value),
    layers.ReLU: _relu,
    layers.LeakyReLU: lambda graph, layer, value: graph.add(
        "LeakyRelu", value, alpha=float(layer.negative_slope)
    ),
    layers.Flatten: _flatten,
    layers.Dense: _dense,
    layers.ZeroPadding2D: _zero_padding,
    layers.Add: _sum,
    # Active only during training.
    layers.Dropout: lambda graph, layer, value: value,
    layers.SpatialDropout2D: lambda graph, layer, value: value,
    layers.Identity: lambda graph, layer, value: value,
}


def _gelu(graph, value):
    half = graph.add("Mul", value, graph.weight(0.5))
    erf = graph.add("Erf", graph.add("Mul", value, graph.weight(0.5**0.5)))
    return graph.add("Mul", half, graph.add("Add", erf, graph.weight(1.0)))


_ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "linear": lambda graph, value: value,
    "relu": lambda graph, value: graph.add("Relu", value),
    "relu6": lambda graph, value: graph.add("Clip", value, graph.weight(0.0), graph.weight(6.0)),
    "leaky_relu": lambda graph, value: graph.add("LeakyRelu", value, alpha=0.2),
    "elu": lambda graph, value: graph.add("Elu", value),
    "tanh": lambda graph, value: graph.add("Tanh", value),
    "sigmoid": lambda graph, value: graph.add("Sigmoid", value),
    "silu": lambda graph, value: graph.add("Mul", value, graph.add("Sigmoid", value)),
    "gelu": _gelu,
    "softmax": lambda graph, value: graph.add("Softmax", value, axis=1),  # over the channels
}


# --- Keras's configurations -----------------------------------------------------------------------


def _layer(model, entry):
    try:
        return model.get_layer(entry["name"])
    except ValueError:  # an operation such as x / 255, which is no layer
        raise UnsupportedLayerError(
            f"the operation {entry['class_name']!r} cannot be written as ONNX: expected layers, "
            "such as keras.layers.Rescaling in place of arithmetic"
        ) from None


def _keys(entries):
    """The keys of inputs or outputs: a layer's name and the indices of its call and its output.

    `entries` is one, or a list of them, or a dictionary.
    """
    if isinstance(entries, dict):
        entries = list(entries.values())
    return [tuple(key) for key in ([entries] if isinstance(entries[0], str) else entries)]


def _keras_tensors(arguments):
    """All Keras tensors among the `arguments` of a call, in order: pairs of a key and a shape."""
    if isinstance(arguments, dict) and arguments.get("class_name") == "__keras_tensor__":
        config = arguments["config"]
        return [(tuple(config["keras_history"]), tuple(config["shape"]))]
    if isinstance(arguments, dict):
        arguments = arguments.values()
    elif not isinstance(arguments, list | tuple):
        return []
    return [found for argument in arguments for found in _keras_tensors(argument)]


def _is_only_use(config, node):
    """Whether nothing but `node`, one of a model's `config`, takes the value that it takes."""
    (key, _), *_ = _keras_tensors(node["args"])
    nodes = [one for entry in config["layers"] for one in entry["inbound_nodes"]]
    used = [used for one in nodes for used, _ in _keras_tensors(one["args"])]
    return used.count(key) == 1 and key not in _keys(config["output_layers"])


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _float32():
    import onnx

    return onnx.TensorProto.FLOAT
