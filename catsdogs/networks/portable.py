"""Save models so that older versions of Keras load them too.

Keras writes every argument of every layer into a model's file, and an older version refuses the
file for a single argument that it does not know yet, even where that has the value that leaves
everything as it was. Here, such arguments are left out: what a newer Keras has added is only in the
files of models that use it.
"""

import contextlib
import importlib
import inspect
import json
import logging
import os
import zipfile
from pathlib import Path

import h5py

from catsdogs import files
from catsdogs.backend import keras

#: The oldest Keras that loads the files of `save`; requirements.txt allows no older one.
OLDEST_KERAS = "3.8.0"
#: The arguments that its classes take, as tools/keras_arguments.py lists them.
_TAKEN = json.loads(Path(__file__).with_name("oldest_keras.json").read_text(encoding="utf-8"))


def save(model: keras.Model, path: str | os.PathLike) -> None:
    """Save `model` at `path`, a ``.keras`` or ``.h5`` file, for `OLDEST_KERAS` and later.

    An ``.h5`` file loads in Keras 2 as well, as long as the model's layers exist there.

    The saved model is functional. A Keras Sequential does not compare its input with the size that
    it was built for, and the pooling of some networks rounds off a few pixels more or less: they
    would predict nonsense for photos of the wrong size. A functional model raises an error.
    """
    path = Path(path)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with files.replacing(path) as partial:
        # HDF5 that meets a full disk in the middle of a file may crash when Python ends.
        with open(partial, "wb") as file:
            files.reserve(file, 5 * model.count_params() + 100_000)
        with _no_advice_on_formats():
            model.save(partial)
        if path.suffix == ".h5":
            with h5py.File(partial, "r+") as file:
                config = _for_keras_2(_for_oldest_keras(json.loads(file.attrs["model_config"])))
                file.attrs["model_config"] = json.dumps(config)
        else:
            _rewrite_archive(partial)


def rewrite(path: str | os.PathLike) -> None:
    """Save the model at `path` again with `save`; its weights stay as they are, to the last bit.

    What it was compiled with is not kept.
    """
    save(keras.saving.load_model(path, compile=False), path)


def _rewrite_archive(path):
    with zipfile.ZipFile(path) as archive:
        parts = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in parts:
            if info.filename == "config.json":
                content = json.dumps(_for_oldest_keras(json.loads(content))).encode()
            archive.writestr(info, content)


def _for_oldest_keras(config):
    """`config`, of a model or a part of it, without arguments that `OLDEST_KERAS` does not take.

    Those that are not at their default are kept: the model needs the Keras that has them.
    """
    if isinstance(config, list):
        return [_for_oldest_keras(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: _for_oldest_keras(value) for key, value in config.items()}
    # The .h5 format names no module for layers.
    module, name = config.get("module", "keras.layers"), config.get("class_name")
    taken = _TAKEN.get(f"{module}.{name}")
    if taken is not None:
        known = inspect.signature(
            getattr(importlib.import_module(module), name).__init__
        ).parameters
        config["config"] = {
            key: value
            for key, value in config["config"].items()
            if key in taken or key not in known or value != known[key].default
        }
    return config


def _for_keras_2(config):
    """`config`, that of an ``.h5`` file, in Keras 2's notation, which Keras 3 reads as well."""
    if isinstance(config, list):
        return [_for_keras_2(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return config["config"]["name"]
    config = {key: _for_keras_2(value) for key, value in config.items()}
    if config.get("class_name") == "InputLayer":
        given = config["config"]
        config["config"] = {
            "batch_input_shape": given["batch_shape"],
            "dtype": given["dtype"],
            "name": given["name"],
        }
    if "inbound_nodes" in config:
        config["inbound_nodes"] = [_node_for_keras_2(node) for node in config["inbound_nodes"]]
    return config


def _node_for_keras_2(node):
    """The inputs of one call of a layer: for each, its layer, call, output; and the keywords."""
    (inputs,) = node["args"]
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return [[*one["config"]["keras_history"], node["kwargs"]] for one in inputs]


@contextlib.contextmanager
def _no_advice_on_formats():
    """A context in which Keras does not advise against the format of ``.h5`` files.

    They are written for programs that read no other; the ``.keras`` file is beside them.
    """

    def is_no_advice(record):
        return "as an HDF5 file" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(is_no_advice)
    try:
        yield
    finally:
        logger.removeFilter(is_no_advice)
