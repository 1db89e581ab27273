"""Read the tensors of a PyTorch file without PyTorch, and without running what is pickled in it."""

import collections
import pickle
from pathlib import Path

import numpy as np

#: What a file that PyTorch saved before version 1.6 starts with: a magic number and a version.
_START = (0x1950A86A20F9469CFC6C, 1001)


class WeightsError(RuntimeError):
    """Weights that are missing or malformed. Its text says what to do."""


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors, by name, of a file that PyTorch saved before version 1.6.

    Such a file is four pickles (a magic number, a version, facts about the machine, the shapes of
    the tensors), then a list of storage keys, then for each key a count and the numbers themselves.
    A pickle can run code when it is loaded; this reader admits only what tensors need.

    Raises `WeightsError` for any other file.
    """
    with open(path, "rb") as file:
        try:
            magic, version, _ = (_Unpickler(file).load() for _ in range(3))
            if (magic, version) != _START:
                raise ValueError("its first bytes are not those of such a file")
            tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
            types = {key: np.dtype(kind) for (_, kind, key, *_), *_ in tensors.values()}
            storages = {}
            for key in keys:
                count = int.from_bytes(file.read(8), "little")
                content = file.read(count * types[key].itemsize)
                storages[key] = np.frombuffer(content, types[key], count)
        except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path} is not a file of tensors that PyTorch saved before version 1.6: {error}"
            ) from None
    return {name: _tensor(storages[one[0][2]], *one[1:]) for name, one in tensors.items()}


def _tensor(storage, offset, shape, strides):
    """The view of `storage` that has this offset, shape and strides, counted in elements."""
    strides = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return storage, offset, shape, strides


class _Unpickler(pickle.Unpickler):
    """Loads what PyTorch pickles for tensors, and refuses everything else."""

    _KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
    }

    def find_class(self, module, name):
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return self._KNOWN[module, name]

    def persistent_load(self, identifier):
        return identifier  # ("storage", type, key, device, count, …)
