"""What depends on Keras's backend: device, compilation, precision, gradients, LiteRT.

The only module that calls a backend by name.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
from pathlib import Path


@contextlib.contextmanager
def _quiet():
    """Capture the standard error, and show it only if something fails.

    TensorFlow 2.21 logs notes about the processor while it is imported, whatever its log level.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


# TensorFlow has oneDNN's kernels, but on x86 processors without AVX-512, as in most laptops, it
# uses them only if told to. With them, a training step takes less than half of the time there.
if "tensorflow" not in sys.modules:  # else it is too late, and only child processes would differ
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

with _quiet():
    # The package imports keras from here, so that whichever module is imported first is quiet.
    import keras


#: Where Linux lists the processor's instruction sets.
_CPU_FACTS = Path("/proc/cpuinfo")


def name() -> str:
    """Keras's backend, as ``KERAS_BACKEND`` sets it: ``"tensorflow"``, ``"jax"`` or ``"torch"``."""
    return keras.backend.backend()


def gpus() -> list[str]:
    """The names of the GPUs that the backend will use; empty on a machine without one."""
    if name() == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in found
        ]
    if name() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    if name() == "torch":
        import torch

        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return []


if name() == "tensorflow":
    with _quiet():
        gpus()  # the first time, TensorFlow logs every GPU library that it does not find
    # With more than four models in a program, TensorFlow 2.21 takes them for one function that is
    # retraced again and again, and warns.
    logging.getLogger("tensorflow").addFilter(
        lambda record: "triggered tf.function retracing" not in record.getMessage()
    )


def device() -> str:
    """The device that training runs on, in words: ``"NVIDIA L4"`` or ``"CPU, 8 cores"``."""
    cores = os.cpu_count()
    return ", ".join(gpus()) or f"CPU, {cores} core{'s' if cores != 1 else ''}"


def jit_compile() -> bool | str:
    """The argument of ``model.compile(jit_compile=...)``.

    False for TensorFlow without a GPU, where XLA makes a small CNN slower; elsewhere ``"auto"``,
    which leaves the choice to Keras.
    """
    return False if name() == "tensorflow" and not gpus() else "auto"


@contextlib.contextmanager
def precision(policy: str):
    """A context in which layers are built with the dtype policy `policy`.

    `policy` is one of Keras's, such as ``"float32"`` or ``"mixed_bfloat16"``.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def faster_precision() -> str:
    """The faster dtype policy here: ``"mixed_bfloat16"`` (see `bfloat16_pays`) or ``"float32"``.

    Either way the weights are stored, and updated, in float32.
    """
    return "mixed_bfloat16" if bfloat16_pays() else "float32"


def bfloat16_pays() -> bool:
    """Whether training here is known to be faster in bfloat16 than in float32.

    True for TensorFlow without a GPU on a processor that multiplies bfloat16 in hardware: a
    training step of notebook 02's network takes two thirds of the time there
    (``benchmarks/bench.json`` has both). Elsewhere it was not measured.
    """
    return name() == "tensorflow" and not gpus() and processor_multiplies_bfloat16()


def processor_multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; False where that is unknown."""
    try:
        flags = _CPU_FACTS.read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def seed_global_generator(seed: int) -> None:
    """Seed the backend's global generator, which dropout uses on PyTorch.

    (`keras.utils.set_random_seed` would do, but it also resets NumPy's and Python's generators,
    which belong to the caller.)
    """
    if name() == "torch":
        import torch

        torch.manual_seed(seed)


def gradient(function, x):
    """The gradient of ``sum(function(x))`` with respect to the tensor `x`, in the shape of `x`."""
    if name() == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(function(x))
        return tape.gradient(total, x)
    if name() == "jax":
        import jax

        return jax.grad(lambda value: function(value).sum())(x)
    if name() == "torch":
        import torch

        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(function(x).sum(), x)[0]
    raise NotImplementedError(f"gradients on the {name()} backend: use tensorflow, jax or torch")


def to_litert(model, photos=None) -> bytes:
    """`model` as the content of a LiteRT (``.tflite``) file; with `photos`, quantized to int8.

    `photos` (uint8, shape (N, size, size, 3)) are the representative data set from which
    quantization takes the range of each activation; a few hundred are enough. The int8 model takes
    uint8 images and returns float32. The file's input is called ``photos``, its output
    ``probability``, or as the outputs of `model` where those have names.

    Raises `NotImplementedError` on a backend other than TensorFlow.
    """
    if name() != "tensorflow":
        raise NotImplementedError(
            f"LiteRT files are written with TensorFlow, but Keras runs on {name()}: "
            "set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    images = tf.TensorSpec(model.input_shape, tf.float32, name="photos")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        # By way of a SavedModel, as `model.export(format="litert")` does since Keras 3.13, but with
        # names for input and output.
        archive = keras.export.ExportArchive()
        archive.track(model)

        def serve(photos):
            found = model(photos, training=False)
            return found if isinstance(found, dict) else {"probability": found}

        archive.add_endpoint("serve", serve, [images])
        with contextlib.redirect_stdout(io.StringIO()):  # Keras 3.8 lists the endpoints in any case
            archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if photos is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = tf.uint8
            converter.representative_dataset = lambda: (
                [photo[None].astype("float32")] for photo in photos
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return converter.convert()
