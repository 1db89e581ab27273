"""Write a trained model for other places: ONNX, LiteRT, and a folder in which a browser classifies."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from catsdogs import backend, files, paths
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset, is_synthetic
from catsdogs.data.decode import RESIZING
from catsdogs.serving.predictor import ModelError, load_model, load_predictor, recorded_calibration

#: ONNX Runtime for browsers, as the npm registry has it.
ORT_WEB = "onnxruntime-web@1.30.0"
ORT_WEB_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")

#: ONNX's operators are versioned; this set is old enough for every runtime in use, and has all that is needed.
OPSET = 17


# --- ONNX ------------------------------------------------------------------------------------------------------------
# Keras can write ONNX itself, but on TensorFlow only with a package that it has to patch for today's NumPy, and without a
# second output. These networks need a dozen operators; with the `onnx` package each is a line.


def to_onnx(model: keras.Sequential, path: Path, facts: dict[str, str] | None = None) -> None:
    """Write `model` as an ONNX file at `path`; `facts` go into it as metadata.

    Input ``photos``: uint8, (photos, size, size, 3), RGB. Outputs: ``probability``, float32, (photos, 1), and, where the
    layers behind the last convolution allow it, ``map``, float32, (photos, height, width), 0 to 1: Grad-CAM, as
    `catsdogs.analysis.gradcam` computes it, but not enlarged. That map needs a gradient, which ONNX Runtime has not; through dense
    layers, batch norm and ReLU, it is the product of their weights where ReLU let something through.

    Raises `catsdogs.serving.predictor.ModelError` for a layer that is not known here.
    """
    import onnx

    graph = _Graph()
    size = model.input_shape[1]
    value = graph.add(
        "Cast", graph.add("Transpose", "photos", perm=[0, 3, 1, 2]), to=onnx.TensorProto.FLOAT
    )
    convolutions = [
        i for i, layer in enumerate(model.layers) if isinstance(layer, keras.layers.Conv2D)
    ]
    last = convolutions[-1] if convolutions else None
    finer, head, in_head = None, [], False
    for index, layer in enumerate(model.layers):
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
            # The map is drawn without the pooling, which would leave it a few pixels large.
            finer = value if index == last else graph.layer(layer, finer, None)
    graph.rename(value, "probability")
    outputs = [
        onnx.helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["photos", 1])
    ]
    if last is not None and head and (weights := _channel_weights(graph, head, spatial)):
        graph.rename(_drawn_map(graph, finer, weights), "map")
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
    """Nodes and weights of an ONNX graph while it is built. A value in it is known by its name."""

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
        """The output of a Keras `layer` for `value`, (photos, channels, height, width) as ONNX has it, or flat behind the
        layer that flattens `spatial`, Keras's (height, width, channels)."""
        layers = keras.layers
        if isinstance(layer, layers.Rescaling):
            return self.add(
                "Add", self.add("Mul", value, self.weight(layer.scale)), self.weight(layer.offset)
            )
        if (
            isinstance(layer, layers.Conv2D)
            and type(layer) is layers.Conv2D
            and layer.data_format == "channels_last"
        ):
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
            if spatial is None:  # one number a channel, not a column
                scale, shift = scale[:, None, None], shift[:, None, None]
            return self.add("Add", self.add("Mul", value, self.weight(scale)), self.weight(shift))
        if isinstance(layer, (layers.Activation, layers.ReLU)):
            return self.activation(layer, value)
        if isinstance(layer, layers.Flatten):
            # In Keras's order, so that the weights of the layer behind it stay as they are.
            return self.add("Flatten", self.add("Transpose", value, perm=[0, 2, 3, 1]))
        if isinstance(layer, layers.GlobalAveragePooling2D):
            return self.add("Flatten", self.add("GlobalAveragePool", value))
        if isinstance(layer, layers.Dense):
            product = self.add("MatMul", value, self.weight(_array(layer.kernel)))
            if layer.use_bias:
                product = self.add("Add", product, self.weight(_array(layer.bias)))
            return self.activation(layer, product)
        if isinstance(layer, (layers.Dropout, layers.Identity)):
            return value  # they only do something while a model trains
        raise ModelError(
            f"layer {layer.name!r}, a {type(layer).__name__}, cannot be written as ONNX: expected those of notebook 02"
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
    """The mean gradient of the logit with respect to each channel, (photos, channels); None where a layer bars the way."""
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
    # What speaks for the answer: for "dog" where the logit is positive, for "cat" where it is not.
    gradient = graph.add("MatMul", graph.add("Sign", logit), graph.weight(_array(output.kernel).T))
    for index in reversed(range(len(between))):
        layer, value = between[index]
        dense = isinstance(layer, keras.layers.Dense)
        name = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if isinstance(layer, keras.layers.ReLU) or (name == "relu" and not dense):
            let_through = graph.add("Cast", graph.add("Greater", value, graph.weight(0.0)), to=1)
            gradient = graph.add("Mul", gradient, let_through)
        elif isinstance(layer, keras.layers.BatchNormalization):
            gradient = graph.add("Mul", gradient, graph.weight(_scale_and_shift(layer)[0]))
        elif dense and name == "linear":
            kernel = _array(layer.kernel)
            if all(
                isinstance(one, (keras.layers.Flatten, keras.layers.Dropout))
                for one, _ in between[:index]
            ):
                # The mean over positions can be taken of the weights already, which leaves one row a channel.
                mean = kernel.reshape(-1, spatial[2], layer.units).mean(0)
                return graph.add("MatMul", gradient, graph.weight(mean.T))
            gradient = graph.add("MatMul", gradient, graph.weight(kernel.T))
        elif not isinstance(layer, (keras.layers.Dropout, keras.layers.GlobalAveragePooling2D)):
            return None
    return gradient


def _drawn_map(graph, features, weights):
    """Grad-CAM's map, (photos, height, width): `features` by channel, weighted and added up, their strongest part 1."""
    weights = graph.add("Unsqueeze", weights, graph.weight([2, 3], np.int64))
    added = graph.add(
        "Relu",
        graph.add(
            "ReduceSum",
            graph.add("Mul", features, weights),
            graph.weight([1], np.int64),
            keepdims=0,
        ),
    )
    strongest = graph.add("ReduceMax", added, axes=[1, 2], keepdims=1)
    return graph.add("Div", added, graph.add("Max", strongest, graph.weight(1e-9)))


def _same_padding(layer):
    """Pixels that ``padding="same"`` adds, as ONNX wants them: top, left, bottom, right."""
    before, after = [], []
    for length, kernel, stride, dilation in zip(
        layer.input.shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate
    ):
        total = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before + after


def _scale_and_shift(layer):
    """What batch norm does to a channel once it has been trained: times the one, plus the other."""
    mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
    scale = (_array(layer.gamma) if layer.scale else 1) / np.sqrt(variance + layer.epsilon)
    return scale, (_array(layer.beta) if layer.center else 0) - mean * scale


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


# --- all of them -----------------------------------------------------------------------------------------------------


def export(
    model_path: Path, folder: Path, *, photos: Callable[[int], np.ndarray] | None = None
) -> list[Path]:
    """Write the model at `model_path`, a ``.keras`` file, as ONNX and LiteRT into `folder`; returns the files' paths.

    ``NAME.onnx`` (see `to_onnx`), ``NAME.tflite``, and, where `photos` are to be had, ``NAME_int8.tflite``, whose weights and
    arithmetic are of 8 bits. LiteRT files take and give what the model does; the 8-bit one takes uint8 photos. `photos` is
    called with the model's size and returns some hundreds of training photos, by which is measured how large numbers get
    inside the network.

    Raises `catsdogs.serving.predictor.ModelError` for a model that cannot be used or written.
    """

    model = load_model(model_path)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{model_path.stem}.onnx"]
    to_onnx(model, written[0], describe(model_path, model))
    for name, some in (
        (f"{model_path.stem}.tflite", None),
        (f"{model_path.stem}_int8.tflite", photos),
    ):
        if name.endswith("_int8.tflite") and some is None:
            continue
        try:
            content = backend.to_litert(model, some and some(model.input_shape[1]))
        except NotImplementedError as error:
            raise ModelError(str(error)) from None
        files.write(folder / name, content)
        written.append(folder / name)
    return written


def compare(model_path: Path, written: list[Path], images: np.ndarray) -> dict[str, dict]:
    """How far the files in `written` differ from the model they were made of, on `images`, uint8 (photos, size, size, 3).

    By file name: ``bytes``; ``largest_difference`` of a probability; ``same_label``, the share of photos that are called cat
    or dog alike.
    """

    def answers(path):
        predictor = load_predictor(path)
        return np.concatenate(
            [
                predictor.predict(np.ascontiguousarray(images[start : start + 64]))
                for start in range(0, len(images), 64)
            ]
        )

    expected, found = answers(model_path), {}
    for path in written:
        given = answers(path)
        found[path.name] = {
            "bytes": path.stat().st_size,
            "largest_difference": float(abs(given - expected).max()),
            "same_label": float(((given >= 0.5) == (expected >= 0.5)).mean()),
        }
    return found


def export_and_compare(model_path: Path, folder: Path) -> dict:
    """Write the model at `model_path` in all formats and print how far they differ from it, measured where there are real photos.

    Returns `compare`'s result, empty without real photos.
    """

    def some_photos(size):
        images = Dataset("full", size).train.images
        return images[
            np.sort(
                np.random.default_rng(0).choice(len(images), min(512, len(images)), replace=False)
            )
        ]

    real = paths.photos().exists() and not is_synthetic()
    written = export(model_path, folder, photos=some_photos if real else None)
    found = {}
    if real:
        tests = Dataset("full", load_predictor(written[0]).size).test.images
        found = compare(model_path, written, tests)
    for path in written:
        line = f"{paths.shown(path)}: {path.stat().st_size / 1e6:.2f} MB"
        if path.name in found:
            line += (
                f"; on {len(tests):,} test photos, probabilities differ by at most "
                f"{found[path.name]['largest_difference']:.2g}, and {found[path.name]['same_label']:.2%} get the same label"
            )
        print(line)
    if not real:
        print(
            "No 8-bit LiteRT file: it is measured on real training photos, and there are none in data/."
        )
    return found


def describe(model_path: Path, model: keras.Model) -> dict[str, str]:
    """What an exported file says of itself: which model it is, how sure its answers are, and what it is, in a sentence."""
    digest = files.sha256(model_path)
    facts = {"name": model_path.stem, "model_sha256": digest, "resizing": RESIZING}
    calibration = recorded_calibration(model_path)
    facts |= {
        "temperature": repr(calibration.temperature),
        "unsure_below": repr(calibration.unsure_below),
    }
    about = f"A network of {model.count_params():,} parameters that tells cats from dogs."
    try:
        record = json.loads(model_path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    if record.get("model_sha256") == digest:
        photos = "synthetic photos" if record["data"]["source"] == "synthetic" else "photos"
        about = (
            f"A network of {record['parameters']:,} parameters, trained on {record['data']['photos']['train']:,} {photos} of "
            "cats and dogs."
        )
        if test := record["metrics"].get("test"):
            about += f" It is right about {test['accuracy']['value']:.1%} of {test['photos']:,} it had never seen."
    return facts | {
        "about": about + " It knows nothing else: shown a chair, it still says cat or dog."
    }


def web_folder(onnx_path: Path, folder: Path) -> None:
    """Make `folder` one that any web server can hand out: a page that classifies with the ONNX model, in the browser.

    ONNX Runtime Web comes from the npm registry, through the npm command; nothing comes from another site when the page
    runs. What was in `folder` before is replaced once all is there, unless it is something else than such a page.

    Raises `catsdogs.serving.predictor.ModelError` where npm is missing or fails, or the folder holds something else.
    """

    source = Path(__file__).parent / "web"
    ours = {path.name for path in source.iterdir()} | {
        "index.html",
        "model.json",
        "model.onnx",
        "ort",
    }
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if found and not {"browser.js", "model.onnx"} <= found <= ours:
        raise ModelError(
            f"{paths.shown(folder)} is not empty and no page of ours: choose another folder, or empty it"
        )
    predictor = load_predictor(onnx_path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch, "page")
        made.mkdir()
        for path in source.iterdir():
            if path.suffix in (".js", ".css") and path.name != "server.js":
                shutil.copy(path, made)
        page = (source / "index.html").read_text(encoding="utf-8")
        (made / "index.html").write_text(
            page.replace('data-classifier="server.js"', 'data-classifier="browser.js"'),
            encoding="utf-8",
        )
        shutil.copy(onnx_path, made / "model.onnx")
        (made / "model.json").write_text(
            json.dumps(
                {
                    "file": "model.onnx",
                    "size": predictor.size,
                    "temperature": predictor.calibration.temperature,
                    "unsure_below": predictor.calibration.unsure_below,
                    "has_map": predictor.explain is not None,
                    "about": predictor.facts.get("about", ""),
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )
        _fetch_ort(made / "ort", Path(scratch))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(made, folder)


def _fetch_ort(target, scratch):
    try:
        run = subprocess.run(
            ["npm", "pack", "--silent", ORT_WEB],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except FileNotFoundError:
        raise ModelError(
            f"npm is not installed: it fetches {ORT_WEB}, with which the page classifies. Node.js brings it"
        ) from None
    except subprocess.TimeoutExpired:
        raise ModelError(f"npm could not fetch {ORT_WEB} within five minutes: try again") from None
    package = next(scratch.glob("onnxruntime-web-*.tgz"), None)
    if run.returncode or package is None:
        last = (run.stderr.strip() or run.stdout.strip() or "no reason given").splitlines()[-1]
        raise ModelError(f"npm could not fetch {ORT_WEB} ({last[:200]}): is there a connection?")
    target.mkdir()
    with tarfile.open(package) as archive:  # npm has checked it against the registry's checksum
        for name in ORT_WEB_FILES:
            with archive.extractfile(f"package/dist/{name}") as file:
                (target / name).write_bytes(file.read())
