"""What a Keras model must be to classify photos, beyond the shapes of its input and output."""

from collections.abc import Iterator

import numpy as np

from catsdogs.backend import keras

_ARITHMETIC = ("Add", "Divide", "Multiply", "Subtract", "TrueDivide")


def violation(model: keras.Model) -> str | None:
    """What is wrong with `model`, as a sentence without its subject, or None.

    It takes pixels from 0 to 255, so something that scales them must come before its first weights;
    it returns a probability, so it ends in a sigmoid; its weights are finite numbers.
    """
    layers = list(_operations(model))
    first = next((layer for layer in layers if getattr(layer, "weights", None)), layers[-1])
    if not any(_scales(layer) for layer in layers[: layers.index(first)]):
        return (
            f"has no layer that scales pixels before {first.name!r}: photos are given to it with "
            "pixels from 0 to 255, so the scaling that it was trained with must be part of it: "
            "put keras.layers.Rescaling(1 / 255) in front, for example, or Rescaling(1.0) if it "
            "was trained on 0 to 255"
        )
    # Each output with a name ends in a layer of its own.
    for last in [one._keras_history[0] for one in named_outputs(model).values()] or layers[-1:]:
        activation = getattr(getattr(last, "activation", None), "__name__", "sigmoid")
        if "sigmoid" not in activation:
            return (
                f"ends in the layer {last.name!r} with the activation {activation!r}: expected "
                'a sigmoid, which outputs the probability of "dog", such as '
                'keras.layers.Activation("sigmoid") behind it'
            )
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        return (
            "has weights that are not numbers (NaN) or infinite, as when training diverges: train "
            "it again, with a lower learning rate"
        )
    return None


def named_outputs(model: keras.Model) -> dict:
    """The outputs of `model` by name, as Keras tensors; empty where they have no names."""
    # A Sequential has one output, but no attribute for it until it is called.
    named = not isinstance(model, keras.Sequential) and isinstance(model.output, dict)
    return model.output if named else {}


def _operations(model) -> Iterator:
    """The layers of `model` and of the models in it, and operations such as a division, in order.

    Those of a Keras functional model are sorted from the input to the output.
    """
    for operation in getattr(model, "operations", model.layers):
        if isinstance(operation, keras.Model):
            yield from _operations(operation)
        else:
            yield operation


def _scales(layer):
    if isinstance(layer, keras.layers.Layer):
        return isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization))
    return type(layer).__name__ in _ARITHMETIC
