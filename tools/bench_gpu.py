"""Measure training and feature extraction with all data on one GPU: ``make bench-gpu``.

    python -m tools.bench_gpu [--size NAME] [--minutes N] [MEASUREMENT ...]

The photos are those in ``data/``. Without any, random images take their place: speeds do not depend
on what the images show, and the rows that need an accuracy are left out. Every measurement runs on
JAX and on PyTorch, where they are installed, each in a process of its own; nothing else should use
the GPU meanwhile. The table is printed last and written to ``build/bench-gpu.json``.

- ``two_conv``: an epoch and 25 epochs of the network of notebook 02
- ``time_to_accuracy``: seconds of training until the baseline's published 79.78%
- ``large``: an epoch of `catsdogs.training.fit.LARGE`, or all of them where ``--minutes`` allows it
- ``features``: photos per second through the pretrained backbones

``--size tiny`` tries all of that in a minute on a CPU, and its numbers mean nothing.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench import FASTEST, PROJECT, TARGET_ACCURACY

#: Photos, pixels per side and epochs of each measurement, by the size that is asked for.
SIZES: dict[str, dict[str, Any]] = {
    "full": dict(photos=None, epochs=25, two_conv={}, large={}, features=2048),
    "tiny": dict(
        photos=64,
        epochs=2,
        two_conv=dict(IMAGE_SIZE=56, FILTERS=(4, 8), DENSE_UNITS=4, BATCH_SIZE=16),
        large=dict(
            IMAGE_SIZE=48, CROP_SIZE=32, STEM_FILTERS=4, FILTERS=(4, 8, 8, 8), BLOCKS=(1, 1, 1, 1)
        )
        | dict(BATCH_SIZE=16),
        features=8,
    ),
}
#: Keras's backends that are measured.
BACKENDS = ("jax", "torch")


# --- data, on the device --------------------------------------------------------------------------


def photos(split: str, size: int, count: int | None):
    """Training and test images and labels; whether they are real photos."""
    from catsdogs import paths
    from catsdogs.data import store
    from catsdogs.data.dataset import Dataset, is_synthetic

    if paths.photos().exists() and store.find_photos(paths.photos())[0] and not is_synthetic():
        found = Dataset(split, size, progress=False)
        some = (
            slice(None) if count is None else np.linspace(0, len(found.train) - 1, count, dtype=int)
        )
        train = np.asarray(found.train.images)[some], found.train.labels[some]
        return train, (np.asarray(found.val.images), found.val.labels), count is None
    rng = np.random.default_rng(0)
    parts = []
    for number in (count or 18_000, (count or 18_000) // 8):
        images = rng.integers(0, 256, (number, size, size, 3), np.uint8)
        parts.append((images, (np.arange(number) % 2).astype(np.uint8)))
    return parts[0], parts[1], False


def jax_training(p: dict, train, steps: int) -> tuple[Callable[[int], None], Callable, Callable]:
    """An epoch as one compiled function, on JAX; the accuracy of the EMA weights; a wait.

    It is compiled here, so that no epoch includes that.
    """
    import jax
    import jax.numpy as jnp

    from catsdogs.training import fit

    model, network = fit.training_model(p)
    optimizer = fit.optimizer(p, steps)
    optimizer.build(model.trainable_variables)
    averages = [id(one) for one in optimizer._model_variables_moving_average]
    where = [index for index, one in enumerate(optimizer.variables) if id(one) in averages]
    images, labels = (jnp.asarray(one) for one in train)
    state = [
        [variable.value for variable in some]
        for some in (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    ]

    def loss_of(trainable, rest, x, y):
        predicted, rest = model.stateless_call(trainable, rest, x, training=True)
        predicted = jnp.clip(predicted[:, 0], 1e-7, 1 - 1e-7)
        return -jnp.mean(y * jnp.log(predicted) + (1 - y) * jnp.log(1 - predicted)), rest

    def step(state, chosen):
        trainable, rest, moments = state
        x, y = images[chosen], labels[chosen].astype(jnp.float32)
        gradients, rest = jax.grad(loss_of, has_aux=True)(trainable, rest, x, y)
        trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
        return (trainable, rest, moments), None

    # The last batch of an epoch is left out where it is smaller: shapes are fixed.
    whole = len(labels) // p["BATCH_SIZE"]

    def order_of(number):
        order = np.random.default_rng((p["SEED"], number)).permutation(len(labels))
        return jnp.asarray(order[: whole * p["BATCH_SIZE"]].reshape(whole, -1))

    run = jax.jit(lambda state, order: jax.lax.scan(step, state, order)[0], donate_argnums=0)
    compiled = run.lower(tuple(state), order_of(0)).compile()

    def epoch(number):
        state[:] = compiled(tuple(state), order_of(number))

    def wait():
        jax.block_until_ready(state)

    @jax.jit
    def predict(weights, rest, x):
        return model.stateless_call(weights, rest, x, training=False)[0][:, 0]

    def accuracy(tested):
        weights = [state[2][index] for index in where]
        found = [predict(weights, state[1], x) for x in np.array_split(tested[0], 8)]
        return float(np.mean((np.concatenate(found) > 0.5) == tested[1]))

    return epoch, accuracy, wait


def torch_training(p: dict, train, steps: int) -> tuple[Callable[[int], None], Callable, Callable]:
    """The same in PyTorch, step by step, after a step that does not count."""
    import torch
    import torch.nn.functional as F

    from catsdogs.data.dataset import Photos
    from catsdogs.networks.pytorch import augment, predict
    from catsdogs.training import pytorch

    device = pytorch.default_device()
    precision = pytorch.faster_precision(device)
    some = Photos(train[0], train[1], [""] * len(train[1]))
    images, labels = (torch.from_numpy(np.array(one)).to(device) for one in train)

    def steps_of(state, order):
        state.model.train()
        for chosen in order.split(p["BATCH_SIZE"]):
            x = augment(images[chosen], **p["AUGMENTATION"]).permute(0, 3, 1, 2)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = state.model(x).float()
                loss = F.binary_cross_entropy_with_logits(logits, labels[chosen].float())
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
            state.scheduler.step()
            state.ema.update_parameters(state.model)

    steps_of(pytorch.start(p, some, device), torch.arange(p["BATCH_SIZE"], device=device))
    state = pytorch.start(p, some, device)

    def epoch(number):
        torch.manual_seed(1000 * p["SEED"] + number)
        steps_of(state, torch.randperm(len(labels), device=device))

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def accuracy(tested):
        logits = predict(state.ema.module, tested[0], precision=precision)
        return float(((logits > 0).numpy() == tested[1]).mean())

    return epoch, accuracy, wait


TRAINING = {"jax": jax_training, "torch": torch_training}


def hyperparameters(changed: dict) -> dict:
    """`changed` with what every run has."""
    from catsdogs import backend
    from catsdogs.training.hyperparameters import validate

    precision = "mixed_bfloat16" if backend.gpus() else "float32"
    return validate(dict(SPLIT="full", SEED=0, PRECISION=precision) | changed)


# --- measurements ---------------------------------------------------------------------------------


def two_conv(size: dict, minutes: float) -> list[dict]:
    """An epoch, and all of them, of notebook 02's network with the data on the device."""
    from catsdogs import backend
    from catsdogs.training import fit

    p = hyperparameters(fit.TWO_CONV | dict(EPOCHS=size["epochs"]) | size["two_conv"])
    train, tested, real = photos("full", p["IMAGE_SIZE"], size["photos"])
    steps = -(-len(train[1]) // p["BATCH_SIZE"])
    begun = time.perf_counter()
    epoch, accuracy, wait = TRAINING[backend.name()](p, train, steps)
    wait()
    times = [time.perf_counter()]
    for number in range(p["EPOCHS"]):
        epoch(number)
        wait()
        times.append(time.perf_counter())
    trained = times[-1] - times[0]
    one = statistics.median(np.diff(times))
    rows = [
        _row(f"one epoch of {len(train[1]):,} photos", one, "s"),
        _row(f"{p['EPOCHS']} epochs", trained, "s"),
        _row(
            f"{p['EPOCHS']} epochs, data transfer and compilation included", times[-1] - begun, "s"
        ),
    ]
    if real:
        rows.append(_row("validation accuracy after them", 100 * accuracy(tested), "%"))
    return rows


def time_to_accuracy(size: dict, minutes: float) -> list[dict]:
    """Seconds of training until two epochs in a row reach the target, compilation apart."""
    from catsdogs import backend
    from catsdogs.training import fit

    p = hyperparameters(fit.TWO_CONV | FASTEST | size["two_conv"] | dict(SPLIT="baseline-8000"))
    train, tested, real = photos("baseline-8000", p["IMAGE_SIZE"], size["photos"])
    steps = -(-len(train[1]) // p["BATCH_SIZE"])
    begun = time.perf_counter()
    epoch, accuracy, wait = TRAINING[backend.name()](p, train, steps)
    wait()
    compiled = time.perf_counter() - begun
    seconds, reached, good = 0.0, None, 0
    for number in range(p["EPOCHS"]):
        begun = time.perf_counter()
        epoch(number)
        wait()
        seconds += time.perf_counter() - begun
        good = good + 1 if accuracy(tested) >= TARGET_ACCURACY else 0
        if good == 2 and reached is None:
            reached = seconds
    rows = [
        _row("compilation, before the fastest run", compiled, "s"),
        _row(f"the {p['EPOCHS']} epochs of the fastest run", seconds, "s"),
    ]
    if real:
        rows.append(_row(f"until {TARGET_ACCURACY:.2%} on validation photos, twice", reached, "s"))
    return rows


def large(size: dict, minutes: float) -> list[dict]:
    """Epochs of `LARGE` as the package trains it, from the host: as many as there is time for."""
    from catsdogs import backend
    from catsdogs.backend import keras
    from catsdogs.data.dataset import Photos
    from catsdogs.training import fit
    from catsdogs.training.batches import Batches

    p = hyperparameters(fit.LARGE | size["large"])
    train, tested, real = photos("full", p["IMAGE_SIZE"], size["photos"])
    batches = Batches(Photos(train[0], train[1], [""] * len(train[1])), p["BATCH_SIZE"])

    model, network = fit.training_model(p)
    model.compile(
        fit.optimizer(p, batches.steps), "binary_crossentropy", jit_compile=backend.jit_compile()
    )
    times: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begun = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            times.append(time.perf_counter() - self.begun)
            if sum(times) + times[-1] > 60 * minutes:
                self.model.stop_training = True

    epochs = p["EPOCHS"] if size["photos"] is None else 2
    model.fit(
        batches,
        steps_per_epoch=batches.steps,
        shuffle=False,
        epochs=epochs,
        verbose=0,
        callbacks=[Clock()],
    )
    rows = [
        _row(
            f"one epoch of LARGE, {len(train[1]):,} photos",
            statistics.median(times[1:] or times),
            "s",
        ),
        _row("epochs that were trained", len(times), f"of {p['EPOCHS']}"),
    ]
    if real and len(times) == p["EPOCHS"]:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        found = network.predict(tested[0], batch_size=128, verbose=0)[:, 0]
        rows.append(
            _row("validation accuracy", 100 * float(np.mean((found > 0.5) == tested[1])), "%")
        )
    return rows


def features(size: dict, minutes: float) -> list[dict]:
    """Photos per second through each pretrained backbone."""
    from catsdogs import backend
    from catsdogs.networks import pretrained

    rows = []
    for name in pretrained.LITE:
        side = pretrained.default_size(name)
        images = np.random.default_rng(0).integers(
            0, 256, (size["features"], side, side, 3), np.uint8
        )
        with backend.precision("mixed_bfloat16" if backend.gpus() else "float32"):
            model = pretrained.build(name)
        rates = []
        for _ in range(4):
            begun = time.perf_counter()
            model.predict(images, batch_size=256, verbose=0)
            rates.append(len(images) / (time.perf_counter() - begun))
        rows.append(_row(f"features by {name} at {side} pixels", max(rates[1:]), "photos/s"))
    return rows


MEASUREMENTS = {one.__name__: one for one in (two_conv, time_to_accuracy, large, features)}


def _row(what: str, value: float | None, unit: str) -> dict:
    return {"what": what, "value": value, "unit": unit}


# --- running them ---------------------------------------------------------------------------------


def child(name: str, size: str, minutes: float, path: str) -> int:
    """Run one measurement in this process, and write its rows and the device to `path`."""
    from catsdogs import backend
    from catsdogs.training import records

    rows = MEASUREMENTS[name](SIZES[size], minutes)
    found = {"rows": rows, "device": backend.device(), "versions": records.versions()}
    Path(path).write_text(json.dumps(found))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for on every backend that is installed, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "measurements", nargs="*", metavar="MEASUREMENT", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--minutes", type=float, default=5, help="for LARGE, per backend")
    parser.add_argument("--out", type=Path, default=PROJECT / "build", help="folder of the result")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.measurements) - set(MEASUREMENTS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(MEASUREMENTS)}")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if not installed:
        print("Neither JAX nor PyTorch is installed: pip install one of them.", file=sys.stderr)
        return 1
    rows: list[dict] = []
    facts: dict[str, Any] = {}
    failed = 0
    for name in chosen.measurements or MEASUREMENTS:
        for backend in installed:
            print(f"  {name} on {backend} …", end=" ", flush=True)
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                result = Path(folder, "result.json")
                command = ["-m", "tools.bench_gpu", "--child", name, chosen.size]
                run = subprocess.run(
                    [sys.executable, *command, str(chosen.minutes), str(result)],
                    env=os.environ | {"KERAS_BACKEND": backend},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    cwd=PROJECT,
                )
                if run.returncode:  # the others may work: time on a GPU is precious
                    failed += 1
                    print(f"failed:\n{run.stdout[-2000:]}", flush=True)
                    continue
                found = json.loads(result.read_text())
            print(f"{time.monotonic() - begun:.0f} s", flush=True)
            rows += [{"measurement": name, "backend": backend} | row for row in found.pop("rows")]
            facts[backend] = found
            chosen.out.mkdir(parents=True, exist_ok=True)
            result = chosen.out / "bench-gpu.json"
            result.write_text(
                json.dumps({"size": chosen.size, "on": facts, "rows": rows}, indent=1)
            )
    print(f"\n{', '.join(sorted({fact['device'] for fact in facts.values()}))}\n")
    print(table(rows))
    return 1 if failed else 0


def table(rows: list[dict]) -> str:
    """`rows` as a Markdown table, one column per backend."""
    lines = ["| measurement | JAX | PyTorch |", "|:---|---:|---:|"]
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        value = "not reached" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        found.setdefault(row["what"], {})[row["backend"]] = value
    for what, cells in found.items():
        lines.append(f"| {what} | {' | '.join(cells.get(name, '–') for name in BACKENDS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5]))
    sys.exit(main())
