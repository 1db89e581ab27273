"""Write a Keras model as the ONNX file of a service: probability, Grad-CAM, and its metadata."""

from pathlib import Path

import numpy as np

from catsdogs import files
from catsdogs.backend import keras
from catsdogs.networks.onnx import Graph, UnsupportedLayerError, scale_and_shift
from catsdogs.serving.predictor import ModelError

layers = keras.layers

_FLATTENING = (layers.Flatten, layers.GlobalAveragePooling2D)


def to_onnx(model: keras.Model, path: Path, facts: dict[str, str] | None = None) -> None:
    """Write `model` as an ONNX file at `path`, with `facts` as its metadata.

    Input ``photos``: uint8, (photos, size, size, 3), RGB. Outputs: ``probability`` of "dog",
    float32, (photos, 1); ``neither``, the same, where the model has such an output; and, where the
    layers after the last feature maps allow it, ``map``, float32, (photos, height, width), 0 to 1:
    Grad-CAM as `catsdogs.analysis.gradcam` computes it, at the resolution of the last feature maps.
    Grad-CAM needs a gradient, and ONNX Runtime computes none for inference; through dense layers,
    batch normalization and ReLU, that gradient is the product of their weights wherever ReLU is
    active, which is an ordinary part of the graph.

    Raises `catsdogs.serving.predictor.ModelError` for a layer without an ONNX counterpart here.
    """
    try:
        graph = Graph(model)
    except UnsupportedLayerError as error:
        raise ModelError(str(error)) from None
    probability = graph.outputs.get("probability") or graph.outputs["output"]
    outputs = {"probability": (probability, ["photos", 1])}
    if "neither" in graph.outputs:
        outputs["neither"] = graph.outputs["neither"], ["photos", 1]
    if heatmap := _map(graph, probability):
        outputs["map"] = heatmap, ["photos", "height", "width"]
    files.write(path, graph.write("cats_vs_dogs", outputs, facts or {}))


def _map(graph, probability):
    """Grad-CAM's map for the value `probability`, or None where it is not possible."""
    makers, head, value = {step.output: step for step in graph.steps}, [], probability
    while not head or not isinstance(head[0].layer, _FLATTENING):
        if value not in makers or len(makers[value].inputs) > 1:
            return None
        head.insert(0, makers[value])
        (value,) = makers[value].inputs
    if value not in makers:  # the pixels themselves
        return None
    if not (weights := _channel_weights(graph, head, graph.shapes[value][-1])):
        return None
    return _weighted_map(graph, _without_pooling(graph, value), weights)


def _without_pooling(graph, features):
    """The last feature maps, `features`, without max pooling behind the convolution.

    It would reduce the map's resolution to a few pixels.
    """
    makers = {step.output: step for step in graph.steps}
    value, behind = features, []
    kept = (layers.BatchNormalization, layers.Activation, layers.ReLU)
    while value in makers and isinstance(makers[value].layer, (*kept, layers.MaxPooling2D)):
        behind.insert(0, makers[value].layer)
        (value,) = makers[value].inputs
    if not any(isinstance(layer, layers.MaxPooling2D) for layer in behind):
        return features
    for layer in behind:
        if isinstance(layer, kept):
            shape = graph.shapes[value]
            value = graph.apply(layer, value)
            graph.shapes[value] = shape
    return value


def _channel_weights(graph, head, channels):
    """The logit's gradient with respect to the features, averaged over each channel's positions.

    Shape (photos, channels): Grad-CAM's weights. None where `head`, the steps from the flattening
    on, has a layer whose gradient is not implemented here.
    """
    *between, (output, (last_input,), _) = head
    if not (
        isinstance(output, layers.Dense)
        and output.activation.__name__ == "sigmoid"
        and output.units == 1
    ):
        return None
    kernel = _array(output.kernel)
    logit = graph.add("MatMul", last_input, graph.weight(kernel))
    if output.use_bias:
        logit = graph.add("Add", logit, graph.weight(_array(output.bias)))
    # The gradient of the predicted class: "dog" where the logit is positive, "cat" elsewhere.
    gradient = graph.add("MatMul", graph.add("Sign", logit), graph.weight(kernel.T))
    for index in reversed(range(len(between))):
        layer, (value, *_), _ = between[index]
        dense = isinstance(layer, layers.Dense)
        name = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if isinstance(layer, layers.ReLU) or (name == "relu" and not dense):
            active = graph.add("Cast", graph.add("Greater", value, graph.weight(0.0)), to=1)
            gradient = graph.add("Mul", gradient, active)
        elif isinstance(layer, layers.BatchNormalization):
            gradient = graph.add("Mul", gradient, graph.weight(scale_and_shift(layer)[0]))
        elif dense and name == "linear":
            kernel = _array(layer.kernel)
            if all(
                isinstance(one, (layers.Flatten, layers.Dropout)) for one, *_ in between[:index]
            ):
                # Averaging the weights over positions beforehand leaves one row per channel.
                mean = kernel.reshape(-1, channels, layer.units).mean(0)
                return graph.add("MatMul", gradient, graph.weight(mean.T))
            gradient = graph.add("MatMul", gradient, graph.weight(kernel.T))
        elif not isinstance(layer, (layers.Dropout, layers.GlobalAveragePooling2D)):
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


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
