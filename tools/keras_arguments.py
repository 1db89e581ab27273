"""Print the arguments that each layer, initializer, regularizer and constraint of Keras takes.

`catsdogs.networks.portable` has those of the oldest Keras that requirements.txt allows. To make the
table again, for a different one::

    pip install --no-deps --target build/oldest keras==3.8.0
    PYTHONPATH=build/oldest:. python tools/keras_arguments.py > catsdogs/networks/oldest_keras.json
"""

import inspect
import json

from catsdogs.backend import keras


def arguments() -> dict[str, list[str]]:
    """Maps a class, such as ``"keras.layers.Add"``, to the names of its arguments."""
    found = {}
    for module in ("constraints", "initializers", "layers", "regularizers"):
        for name, value in sorted(vars(getattr(keras, module)).items()):
            if inspect.isclass(value) and name == value.__name__:  # not an alias
                parameters = inspect.signature(value.__init__).parameters
                found[f"keras.{module}.{name}"] = [
                    one for one in parameters if one not in ("self", "args", "kwargs")
                ]
    return found


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(taken)}" for name, taken in arguments().items())
    print("{\n" + ",\n".join(lines) + "\n}")
