"""Write a Keras model as an ONNX file, with Grad-CAM as its second output.

Keras can export ONNX itself, but on TensorFlow only with a package that it has to patch for current
versions of NumPy, and without a second output. These networks need a dozen operators; with the
`onnx` package, each is a line.
"""

from pathlib import Path

import numpy as np

from catsdogs import files
from catsdogs.backend import keras
from catsdogs.serving.predictor import ModelError

#: The version of ONNX's operator set: old enough for every runtime in use, with all we need.
OPSET = 17


def to_onnx(model: keras.Model, path: Path, facts: dict[str, str] | None = None) -> None:
    """Write `model`, a chain of layers, as an ONNX file at `path`, with `facts` as its metadata.

    Input ``photos``: uint8, (photos, size, size, 3), RGB. Outputs: ``probability`` of "dog",
    float32, (photos, 1), and, where the layers after the last convolution allow it, ``map``,
    float32, (photos, height, width), 0 to 1: Grad-CAM as `catsdogs.analysis.gradcam` computes it,
    at the resolution of the last convolution. Grad-CAM needs a gradient, and ONNX Runtime computes
    none for inference; through dense layers, batch normalization and ReLU, that gradient is the
    product of their weights wherever ReLU is active, which is an ordinary part of the graph.

    Raises `catsdogs.serving.predictor.ModelError` for a layer without an ONNX counterpart here.
    """
    import onnx

    graph = _Graph()
    size = model.input_shape[1]
    value = graph.add(
        "Cast", graph.add("Transpose", "photos", perm=[0, 3, 1, 2]), to=onnx.TensorProto.FLOAT
    )
    chain = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    convolutions = [i for i, layer in enumerate(chain) if isinstance(layer, keras.layers.Conv2D)]
    last = convolutions[-1] if convolutions else None
    finer, head, in_head = None, [], False
    for index, layer in enumerate(chain):
        if isinstance(layer, (keras.layers.Flatten, keras.layers.GlobalAveragePooling2D)):
            in_head = True
            spatial = layer.input.shape[1:]
        before = value
        value = graph.layer(layer, value, spatial if in_head else None)
        if in_head:
            head.append((layer, before))
        elif (
            last is not None and index >= last and not isinstance(layer, keras.layers.MaxPooling2D)
        ):
            # The map skips the pooling, which would reduce its resolution to a few pixels.
            finer = value if index == last else graph.layer(layer, finer, None)
    graph.rename(value, "probability")
    outputs = [
        onnx.helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["photos", 1])
    ]
    if last is not None and head and (weights := _channel_weights(graph, head, spatial)):
        graph.rename(_weighted_map(graph, finer, weights), "map")
        outputs.append(
            onnx.helper.make_tensor_value_info(
                "map", onnx.TensorProto.FLOAT, ["photos", "height", "width"]
            )
        )
    photos = onnx.helper.make_tensor_value_info(
        "photos", onnx.TensorProto.UINT8, ["photos", size, size, 3]
    )
    written = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "cats_vs_dogs", [photos], outputs, graph.weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="catsdogs",
    )
    onnx.helper.set_model_props(written, {name: str(fact) for name, fact in (facts or {}).items()})
    onnx.checker.check_model(written, full_check=True)
    files.write(path, written.SerializeToString())


class _Graph:
    """Nodes and weights of an ONNX graph under construction. Values are referred to by name."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, operator, *inputs, **attributes):
        import onnx

        name = f"value{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, array, dtype=np.float32):
        import onnx

        name = f"weight{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def rename(self, old, new):
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    def layer(self, layer, value, spatial):
        """Append a Keras `layer` that is applied to `value`; returns its output.

        Values are (photos, channels, height, width), ONNX's order. After the layer that flattens
        or averages them, they are (photos, features), and `spatial` is the shape from before, in
        Keras's order: (height, width, channels).
        """
        layers = keras.layers
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            raise ModelError(
                f"layer {layer.name!r} has the data format {layer.data_format!r}, which cannot be "
                "written as ONNX: expected 'channels_last'"
            )
        if isinstance(layer, layers.Rescaling):
            # One number, or one per channel.
            scale, offset = (np.reshape(given, (-1, 1, 1)) for given in (layer.scale, layer.offset))
            return self.add("Add", self.add("Mul", value, self.weight(scale)), self.weight(offset))
        if isinstance(layer, layers.Conv2D) and type(layer) is layers.Conv2D:
            padding = _same_padding(layer) if layer.padding == "same" else [0, 0, 0, 0]
            inputs = [value, self.weight(_array(layer.kernel).transpose(3, 2, 0, 1))]
            if layer.use_bias:
                inputs.append(self.weight(_array(layer.bias)))
            convolved = self.add(
                "Conv",
                *inputs,
                strides=layer.strides,
                dilations=layer.dilation_rate,
                group=layer.groups,
                pads=padding,
            )
            return self.activation(layer, convolved)
        if isinstance(layer, layers.MaxPooling2D) and layer.padding == "valid":
            return self.add("MaxPool", value, kernel_shape=layer.pool_size, strides=layer.strides)
        if isinstance(layer, layers.BatchNormalization):
            scale, shift = _scale_and_shift(layer)
            if spatial is None:  # one value per channel, broadcast over height and width
                scale, shift = scale[:, None, None], shift[:, None, None]
            return self.add("Add", self.add("Mul", value, self.weight(scale)), self.weight(shift))
        if isinstance(layer, (layers.Activation, layers.ReLU)):
            return self.activation(layer, value)
        if isinstance(layer, layers.Flatten):
            # In Keras's order, so that the next layer's weights can be used unchanged.
            return self.add("Flatten", self.add("Transpose", value, perm=[0, 2, 3, 1]))
        if isinstance(layer, layers.GlobalAveragePooling2D):
            return self.add("Flatten", self.add("GlobalAveragePool", value))
        if isinstance(layer, layers.Dense):
            product = self.add("MatMul", value, self.weight(_array(layer.kernel)))
            if layer.use_bias:
                product = self.add("Add", product, self.weight(_array(layer.bias)))
            return self.activation(layer, product)
        if isinstance(layer, (layers.Dropout, layers.Identity)):
            return value  # active only during training
        raise ModelError(
            f"layer {layer.name!r}, a {type(layer).__name__}, cannot be written as ONNX: expected "
            "layers such as those of notebook 02"
        )

    def activation(self, layer, value):
        name = "relu" if isinstance(layer, keras.layers.ReLU) else layer.activation.__name__
        operator = {"linear": None, "relu": "Relu", "sigmoid": "Sigmoid"}.get(name, name)
        if operator == name:
            raise ModelError(
                f"activation {name!r} cannot be written as ONNX: expected relu, sigmoid or linear"
            )
        return self.add(operator, value) if operator else value


def _channel_weights(graph, head, spatial):
    """The logit's gradient with respect to the features, averaged over each channel's positions.

    Shape (photos, channels): Grad-CAM's weights. None where `head` has a layer whose gradient is
    not implemented here.
    """
    *between, (output, last_input) = head
    if not (
        isinstance(output, keras.layers.Dense)
        and output.activation.__name__ == "sigmoid"
        and output.units == 1
    ):
        return None
    kernel = graph.weight(_array(output.kernel))
    logit = graph.add("MatMul", last_input, kernel)
    if output.use_bias:
        logit = graph.add("Add", logit, graph.weight(_array(output.bias)))
    # The gradient of the predicted class: "dog" where the logit is positive, "cat" elsewhere.
    gradient = graph.add("MatMul", graph.add("Sign", logit), graph.weight(_array(output.kernel).T))
    for index in reversed(range(len(between))):
        layer, value = between[index]
        dense = isinstance(layer, keras.layers.Dense)
        name = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if isinstance(layer, keras.layers.ReLU) or (name == "relu" and not dense):
            active = graph.add("Cast", graph.add("Greater", value, graph.weight(0.0)), to=1)
            gradient = graph.add("Mul", gradient, active)
        elif isinstance(layer, keras.layers.BatchNormalization):
            gradient = graph.add("Mul", gradient, graph.weight(_scale_and_shift(layer)[0]))
        elif dense and name == "linear":
            kernel = _array(layer.kernel)
            if all(
                isinstance(one, (keras.layers.Flatten, keras.layers.Dropout))
                for one, _ in between[:index]
            ):
                # Averaging the weights over positions beforehand leaves one row per channel.
                mean = kernel.reshape(-1, spatial[2], layer.units).mean(0)
                return graph.add("MatMul", gradient, graph.weight(mean.T))
            gradient = graph.add("MatMul", gradient, graph.weight(kernel.T))
        elif not isinstance(layer, (keras.layers.Dropout, keras.layers.GlobalAveragePooling2D)):
            return None
    return gradient


def _weighted_map(graph, features, weights):
    """Grad-CAM's map, (photos, height, width): the weighted sum of channels, its maximum 1."""
    weights = graph.add("Unsqueeze", weights, graph.weight([2, 3], np.int64))
    combined = graph.add(
        "Relu",
        graph.add(
            "ReduceSum",
            graph.add("Mul", features, weights),
            graph.weight([1], np.int64),
            keepdims=0,
        ),
    )
    strongest = graph.add("ReduceMax", combined, axes=[1, 2], keepdims=1)
    return graph.add("Div", combined, graph.add("Max", strongest, graph.weight(1e-9)))


def _same_padding(layer):
    """The pixels ``padding="same"`` adds, in ONNX's order: top, left, bottom, right."""
    before, after = [], []
    for length, kernel, stride, dilation in zip(
        layer.input.shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate
    ):
        total = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before + after


def _scale_and_shift(layer):
    """What trained batch normalization multiplies each channel by, and what it adds."""
    mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
    scale = (_array(layer.gamma) if layer.scale else 1) / np.sqrt(variance + layer.epsilon)
    return scale, (_array(layer.beta) if layer.center else 0) - mean * scale


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
