"""Benchmark our pipelines against the usual ones, on one machine: ``make bench``.

    python -m tools.bench [--publish] [MEASUREMENT ...]

The photos come from the archive that ``CATSDOGS_BENCH_ARCHIVE`` names, as ``bash download_data.sh
zip`` takes it; without one, they are those in ``data/``, or else the synthetic sample.
``CATSDOGS_BENCH_ORIGINALS`` may name a second archive, of photos at their original size, for the
rows that read files. The baselines run as their authors wrote them.

Each measurement runs in a process of its own, never two at once. Within it, rounds alternate
between ours and the baseline, and a row shows medians. Prints a table and writes
``build/bench.json`` and ``build/bench.png``; with ``--publish``, those in ``benchmarks/``, from
which ``python -m tools.report`` writes the documents. Measurements that are named replace only
their own rows. All of them take about half an hour.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

#: The test accuracy that the baseline is published with, and the number of consecutive epochs that
#: must reach it.
TARGET_ACCURACY, CONSECUTIVE_EPOCHS, SEEDS = 0.7978, 2, (0, 1, 2)
#: The baseline's pixels per side, images per batch, and epochs.
SIZE, BATCH, EPOCHS = 64, 32, 25
#: Epochs that are measured of those that a person waits for; more are calculated.
WAITING_EPOCHS = 5
#: Rounds that count, after one warm-up round.
ROUNDS = 5
#: The hyperparameters that differ from notebook 02's to reach TARGET_ACCURACY soonest; chosen on
#: the validation set.
FASTEST = dict(
    IMAGE_SIZE=80, EPOCHS=4, FILTERS=(32, 96), POOL_SIZES=(4, 2), DROPOUT=0.1, EMA_DECAY=0.97
)


# --- what each process measures -------------------------------------------------------------------
# Libraries are imported inside the functions, so that each process holds only what it needs, and
# its memory is what the measured pipeline takes.


def reading() -> dict:
    """Photos per second from JPEG files to training arrays, without a cache."""
    import keras

    from catsdogs import paths
    from catsdogs.data import cache

    table = good_photos()

    def ours():
        for path in paths.arrays().glob("*"):  # the cache
            path.unlink()
        cache.load_pixels(list(table.photo), list(table.sha256), SIZE, progress=False)

    def baseline():
        for _ in keras.utils.image_dataset_from_directory(
            folder, image_size=(SIZE, SIZE), verbose=False
        ):
            pass

    with laid_out(table) as folder:
        mine, theirs = alternate(ours, baseline, rounds=rounds_for(len(table)))
    return {"ours": len(table) / mine, "baseline": len(table) / theirs}


def epoch() -> dict:
    """Seconds per epoch of the baseline network at its batch size, with each pipeline.

    The two baseline pipelines run on TensorFlow only.
    """
    import keras
    import numpy as np

    from catsdogs import backend
    from catsdogs.data import cache
    from catsdogs.data.dataset import Photos
    from catsdogs.training.batches import Batches

    table = good_photos()
    pixels = cache.load_pixels(list(table.photo), list(table.sha256), SIZE, progress=False)
    batches = Batches(Photos(pixels, table.label.to_numpy(np.uint8), list(table.photo)), BATCH)
    with backend.precision(backend.faster_precision()):
        network = baseline_network("baseline")
    ways = {"ours": (network, batches, {"steps_per_epoch": batches.steps, "shuffle": False})}
    with laid_out(table) as folder:
        if backend.name() == "tensorflow":
            ways["ImageDataGenerator"] = (baseline_network(None), generator(folder), {})
            augment = keras.Sequential(
                [
                    keras.layers.RandomFlip("horizontal"),
                    keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2)),
                ]
            )
            files = keras.utils.image_dataset_from_directory(
                folder,
                image_size=(SIZE, SIZE),
                batch_size=BATCH,
                label_mode="binary",
                verbose=False,
            )
            files = files.map(
                lambda images, labels: (augment(images, training=True) / 255, labels),
                num_parallel_calls=-1,
            )
            ways["image_dataset_from_directory"] = (baseline_network(None), files.prefetch(-1), {})
        found = alternate(
            *(lambda way=way: epoch_seconds(way[0], way[1], **way[2]) for way in ways.values()),
            rounds=rounds_for(len(table)),
        )
    return {"seconds": dict(zip(ways, found)), "dtype": network.compute_dtype}


def waiting(way: str) -> dict:
    """Seconds until each of the first epochs has been trained, from JPEG files, reading included.

    Ours checks and reads the photos once, the baseline reads them in every epoch. The network, its
    batches and its precision are the same, and neither augments.
    """
    import keras
    import numpy as np

    from catsdogs import paths
    from catsdogs.data import cache
    from catsdogs.data.dataset import Photos
    from catsdogs.training.batches import Batches

    times: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            times.append(time.perf_counter() - begun)

    table = good_photos()
    with laid_out(table) as folder:
        model = baseline_network("none" if way == "ours" else None)
        options: dict[str, Any] = dict(epochs=WAITING_EPOCHS, verbose=0, callbacks=[Clock()])
        if way == "ours":
            for path in [*paths.arrays().glob("*"), *paths.tables().glob("*")]:
                path.unlink()
            begun = time.perf_counter()
            table = good_photos()
            pixels = cache.load_pixels(list(table.photo), list(table.sha256), SIZE, progress=False)
            labels = table.label.to_numpy(np.uint8)
            batches = Batches(Photos(pixels, labels, list(table.photo)), BATCH)
            model.fit(batches, steps_per_epoch=batches.steps, shuffle=False, **options)
        else:
            begun = time.perf_counter()
            found = keras.utils.image_dataset_from_directory(
                folder,
                image_size=(SIZE, SIZE),
                batch_size=BATCH,
                label_mode="binary",
                verbose=False,
            )
            found = found.map(lambda images, labels: (images / 255, labels), num_parallel_calls=-1)
            model.fit(found.prefetch(-1), **options)
    return {"times": times}


def step() -> dict:
    """A training step of notebook 02's network: its share of peak FLOP/s, and augmentation's cost.

    The peak is that of a large matrix product, measured in the same process.
    """
    import keras
    import numpy as np

    from catsdogs import backend
    from catsdogs.data.dataset import Photos
    from catsdogs.networks import augment, cnn
    from catsdogs.training import fit
    from catsdogs.training.batches import Batches

    p: dict[str, Any] = fit.TWO_CONV
    size, batch_size = p["IMAGE_SIZE"], p["BATCH_SIZE"]
    rng = np.random.default_rng(0)
    # JAX and PyTorch are slow on a CPU: 64 steps would take minutes.
    steps = 64 if backend.name() == "tensorflow" or backend.gpus() else 8
    count = steps * batch_size
    # Speed does not depend on the content of the images.
    photos = Photos(
        rng.integers(0, 256, (count, size, size, 3), np.uint8),
        rng.integers(0, 2, count, np.uint8),
        [""] * count,
    )
    batches = Batches(photos, batch_size)

    def compiled(strengths):
        model = cnn.build(p)
        whole = keras.Sequential([model.inputs[0], augment.augmentation(strengths), model])
        whole.compile(
            keras.optimizers.AdamW(1e-3),
            "binary_crossentropy",
            metrics=["accuracy"],
            jit_compile=backend.jit_compile(),
        )
        return model, lambda: epoch_seconds(whole, batches, steps_per_epoch=steps, shuffle=False)

    side = 8192 if backend.gpus() else 4096
    dtype = keras.config.dtype_policy().compute_dtype
    square = keras.ops.cast(rng.normal(size=(side, side)), dtype)

    def multiply():
        # Converting to NumPy waits for the product; one corner only, so that copying takes no time.
        keras.ops.convert_to_numpy(
            keras.ops.cast(keras.ops.matmul(square, square)[:1, :1], "float32")
        )

    model, augmented = compiled(p["AUGMENTATION"])
    _, plain = compiled("none")
    with_augmentation, without, product = alternate(augmented, plain, multiply, rounds=3)
    peak = 2 * side**3 / product
    reached = training_flops(model) * batch_size * steps / with_augmentation
    return {
        "peak": peak,
        "reached": reached,
        "share": reached / peak,
        "dtype": dtype,
        "step": with_augmentation / steps,
        "augmentation": with_augmentation / without - 1,
    }


def memory(way: str) -> dict:
    """Peak memory, in bytes, of one epoch of training on all photos with one pipeline."""
    import keras

    from catsdogs.data.dataset import Dataset
    from catsdogs.training.batches import Batches

    watch = PeakMemory()
    with watch:
        model = baseline_network(None)
        if way == "ours":
            batches = Batches(Dataset("full", SIZE, progress=False).train, BATCH)
            model.fit(batches, steps_per_epoch=batches.steps, shuffle=False, verbose=0)
        else:
            with laid_out(good_photos()) as folder:
                files = keras.utils.image_dataset_from_directory(
                    folder,
                    image_size=(SIZE, SIZE),
                    batch_size=BATCH,
                    label_mode="binary",
                    verbose=False,
                    validation_split=0.1,
                    subset="training",
                    seed=0,
                )
                model.fit(
                    files.cache().map(lambda images, labels: (images / 255, labels)).prefetch(-1),
                    verbose=0,
                )
    return {"peak": watch.peak, "anonymous": watch.anonymous, "before": watch.before}


def time_to_accuracy(way: str, seed: int) -> dict:
    """Seconds of reading and training until the test accuracy reaches TARGET_ACCURACY.

    It counts as reached after CONSECUTIVE_EPOCHS epochs at or above it, on the 2,000 test photos of
    ``baseline-8000``. For both pipelines the time leaves out measuring the accuracy, importing
    libraries, and the check for corrupt files, which only ours makes, once.
    """
    import keras

    from catsdogs.data import splits

    rows = splits.prepare("baseline-8000", progress=False)
    test = rows[rows.subset == "test"]
    keras.utils.set_random_seed(seed)
    train_until = train_ours if way == "ours" else train_baseline
    clock = train_until(rows[rows.subset != "test"], test, seed)
    return {"reached": clock.reached, "times": clock.times, "accuracies": clock.accuracies}


def train_ours(train, test, seed):
    """Train notebook 02's network with FASTEST's hyperparameters, from files; returns the clock."""
    import keras
    import numpy as np

    from catsdogs import backend, paths
    from catsdogs.data import cache
    from catsdogs.data.dataset import Photos
    from catsdogs.networks import augment, cnn, whitening
    from catsdogs.training import fit
    from catsdogs.training.batches import Batches
    from catsdogs.training.checkpoint import EMAWeights

    p = fit.TWO_CONV | FASTEST
    size = p["IMAGE_SIZE"]
    tested, labels = pixels_of(test, size), test.label.to_numpy()[:, None]
    for path in paths.arrays().glob(f"{size}px-*"):
        path.unlink()
    clock = stopwatch(
        lambda whole: whole.evaluate(
            tested, labels, batch_size=256, verbose=0, return_dict=True, callbacks=[EMAWeights()]
        )["accuracy"]
    )
    images = cache.load_pixels(list(train.photo), list(train.sha256), size, progress=False)
    photos = Photos(np.array(images), train.label.to_numpy(np.uint8), list(train.photo))
    with backend.precision(backend.faster_precision()):
        model = cnn.build(p)
        whole = keras.Sequential(
            [model.inputs[0], augment.augmentation(p["AUGMENTATION"], seed), model]
        )
    whitening.whiten(model.layers[1], photos.images)
    batches = Batches(photos, p["BATCH_SIZE"], seed)
    whole.compile(
        fit.optimizer(p, batches.steps),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=backend.jit_compile(),
    )
    # Otherwise TensorFlow traces the step twice, first to create the optimizer's variables.
    whole.optimizer.build(whole.trainable_variables)
    whole.fit(
        batches,
        steps_per_epoch=batches.steps,
        shuffle=False,
        epochs=p["EPOCHS"],
        verbose=0,
        callbacks=[clock],
    )
    return clock


def train_baseline(train, test, seed):
    """Train the baseline as it stands, from files, for 25 epochs or until the target is reached."""
    with laid_out(train) as train_folder, laid_out(test) as test_folder:
        tested = generator(test_folder, augment=False)
        clock = stopwatch(lambda model: accuracy(model.predict(tested, verbose=0), tested.labels))
        baseline_network(None).fit(
            generator(train_folder), epochs=EPOCHS, verbose=0, callbacks=[clock]
        )
    return clock


MEASUREMENTS = {
    function.__name__: function
    for function in (time_to_accuracy, reading, waiting, epoch, step, memory)
}


# --- what they share ------------------------------------------------------------------------------


def alternate(*functions, rounds: int = ROUNDS) -> list[float]:
    """The median seconds of each of `functions`, which take turns, after one warm-up round.

    A function that returns a float has measured its seconds itself.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for round_number in range(rounds + 1):
        for function, found in zip(functions, seconds):
            started = time.perf_counter()
            itself = function()
            if round_number:
                found.append(itself if isinstance(itself, float) else time.perf_counter() - started)
    return [statistics.median(found) for found in seconds]


def epoch_seconds(model, batches, **options) -> float:
    """Seconds of one epoch of ``model.fit``, from the epoch's beginning to its end.

    Not of the call: with TensorFlow 2.21, `fit` ends by waiting for the thread that tunes the input
    pipeline, and that thread sleeps twice as long each time, up to a minute. The wait comes once
    per call, with any pipeline, and would up to double a call of one epoch.
    """
    import keras

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begun = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self.begun

    clock = Clock()
    model.fit(batches, verbose=0, callbacks=[clock], **options)
    return clock.seconds


def good_photos():
    """The rows of the photos that can be decoded."""
    from catsdogs.data import check

    table = check.check_photos(progress=False)
    return table[table.problem == ""]


def baseline_network(strengths: str | None):
    """The baseline's network, compiled.

    With `strengths`, it begins with our data augmentation at those strengths and takes images from
    0 to 255. With None, it takes 0 to 1, and augmentation is up to the pipeline in front.
    """
    import keras

    from catsdogs import backend
    from catsdogs.networks import augment, cnn

    rescaling, *rest = cnn.baseline(SIZE).layers
    front = [augment.augmentation(strengths), rescaling] if strengths else []
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *front, *rest])
    model.compile(
        "adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=backend.jit_compile()
    )
    return model


def generator(folder: Path, augment: bool = True):
    """The baseline's generator over `folder`, which has one subfolder per class.

    With `augment`, it shuffles and augments; without, it is for testing.
    """
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    augmentation = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}
    images = ImageDataGenerator(rescale=1 / 255, **(augmentation if augment else {}))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how many files it found
        return images.flow_from_directory(
            folder, target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="binary", shuffle=augment
        )


@contextlib.contextmanager
def laid_out(rows):
    """A temporary folder of links to the photos of `rows`.

    The baselines need one, because they stop at the first corrupt file.
    """
    from catsdogs import paths

    with tempfile.TemporaryDirectory() as folder:
        for photo in rows.photo:
            link = Path(folder, photo)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((paths.photos() / photo).resolve())
        yield Path(folder)


def rounds_for(photos: int) -> int:
    """How many rounds count: fewer where each is long, one where there is no baseline."""
    from catsdogs import backend

    return 1 if backend.name() != "tensorflow" else 3 if photos > 5_000 else ROUNDS


def pixels_of(rows, size: int):
    """The images of the photos of `rows`, decoded without a cache."""
    import numpy as np

    from catsdogs import paths
    from catsdogs.data.decode import decode

    return np.stack([decode(paths.photos() / photo, size) for photo in rows.photo])


def training_flops(model) -> int:
    """FLOP of a training step per image, in convolutions and dense layers only.

    Each multiply-add counts as two. It is computed in the forward pass, for the gradient of the
    weights, and, except in the first layer, for the gradient of the inputs.
    """
    import keras

    total, first = 0, True
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            positions = (
                layer.output.shape[1] * layer.output.shape[2]
                if isinstance(layer, keras.layers.Conv2D)
                else 1
            )
            size = 1
            for length in layer.kernel.shape:
                size *= length
            total += 2 * positions * size * (2 if first else 3)
            first = False
    return total


class PeakMemory:
    """A context that measures this process's peak resident memory, in bytes.

    `peak` includes memory-mapped files, which the system can drop at any time; `anonymous` is the
    peak without them; `before` is the memory at the start. Only `peak` is known outside Linux.
    """

    def __enter__(self):
        self.before, self.anonymous, self.done = self._status("VmRSS"), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()
        unit = 1 if sys.platform == "darwin" else 1024
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _watch(self):
        while not self.done.wait(0.02):
            self.anonymous = max(self.anonymous, self._status("RssAnon"))

    def _status(self, name):
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def stopwatch(measure):
    """A callback that times training: its clock stops while `measure` computes the accuracy."""
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds, self.reached, self.accuracies, self.times = 0.0, None, [], []
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds += time.perf_counter() - self.started
            self.times.append(self.seconds)
            self.accuracies.append(measure(self.model))
            if (
                self.reached is None
                and min(self.accuracies[-CONSECUTIVE_EPOCHS:]) >= TARGET_ACCURACY
                and len(self.accuracies) >= CONSECUTIVE_EPOCHS
            ):
                self.reached = self.seconds
                self.model.stop_training = True
            self.started = time.perf_counter()

    return Stopwatch()


def accuracy(probabilities, labels) -> float:
    """The accuracy of `probabilities` of class 1 at the threshold 0.5."""
    return float(((probabilities.ravel() >= 0.5) == labels).mean())


# --- the run --------------------------------------------------------------------------------------


def backends() -> list[str]:
    """The installed backends of Keras, TensorFlow first."""
    return [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]


def measure(
    name: str, backend_name: str = "tensorflow", policy: str = "float32", **options
) -> dict:
    """Run the measurement `name` in a process of its own; returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        what = " ".join(str(word) for word in (name, *options.values(), backend_name, policy))
        print(f"  {what} …", end=" ", flush=True)
        started = time.monotonic()
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "tools.bench",
                "--child",
                json.dumps([name, policy, str(result), options]),
            ],
            text=True,
            env=os.environ | {"KERAS_BACKEND": backend_name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
        )
        if run.returncode:
            sys.exit(f"failed:\n{run.stdout[-3000:]}")
        print(f"{time.monotonic() - started:.0f} s", flush=True)
        return json.loads(result.read_text())


def child(arguments: str) -> None:
    """Run one measurement in this process, as `measure` asks, and write its result as JSON."""
    name, policy, result, options = json.loads(arguments)
    if policy != "float32":
        import keras

        keras.config.set_dtype_policy(policy)
    Path(result).write_text(json.dumps(MEASUREMENTS[name](**options)))


def row(
    what: str,
    unit: str,
    ours: float,
    baseline: float | None,
    against: str,
    target: float | None = None,
    *,
    backend: str = "tensorflow",
    higher_is_better: bool = False,
) -> dict:
    """A row of the results: `ours` and `baseline` in `unit`, the speedup, and its target.

    `against` describes the baseline. A speedup below 1 means that ours is slower.
    """
    speedup = None
    if baseline is not None:
        speedup = ours / baseline if higher_is_better else baseline / ours
    return {
        "what": what,
        "unit": unit,
        "ours": ours,
        "baseline": baseline,
        "speedup": speedup,
        "against": against,
        "target": target,
        "backend": backend,
    }


def reading_rows() -> list[dict]:
    found = measure("reading")
    return [
        row(
            f"reading, {files()}",
            "photos/s",
            found["ours"],
            found["baseline"],
            "image_dataset_from_directory",
            1.3,
            higher_is_better=True,
        )
    ]


def waiting_rows() -> list[dict]:
    ways = ("ours", "baseline")
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(2):
        for way in ways:
            found[way].append(measure("waiting", way=way)["times"])
    rows = []
    for epochs in (1, WAITING_EPOCHS, EPOCHS):
        ours, theirs = (statistics.median(after(epochs, run) for run in found[way]) for way in ways)
        measured = "" if epochs <= WAITING_EPOCHS else " (calculated)"
        rows.append(
            row(
                f"{epochs} epoch{'s' if epochs > 1 else ''}, {files()}, reading included{measured}",
                "s",
                ours,
                theirs,
                "image_dataset_from_directory, which reads in every epoch",
            )
        )
    return rows


def after(epochs: int, times: list[float]) -> float:
    """Seconds until the end of `epochs`; `times` are those until the end of the first few.

    Beyond them, each epoch is taken to last as long as the mean of all measured but the first.
    """
    if epochs <= len(times):
        return times[epochs - 1]
    return times[-1] + (epochs - len(times)) * (times[-1] - times[0]) / (len(times) - 1)


def epoch_rows() -> list[dict]:
    rows = []
    for name in backends():
        measured = measure("epoch", name)
        seconds = measured["seconds"]
        ours, *baselines = seconds
        fastest = min(baselines, key=seconds.get, default=None)
        what = f"one epoch, {files()}, ours in {measured['dtype']}"
        rows += [
            row(
                what,
                "s",
                seconds[ours],
                seconds[baseline],
                baseline,
                3 if baseline == fastest else None,
                backend=name,
            )
            for baseline in baselines
        ]
        if not baselines:
            rows.append(row(what, "s", seconds[ours], None, "none on this backend", backend=name))
    return rows


def time_to_accuracy_rows() -> list[dict]:
    what, target = f"time to {TARGET_ACCURACY:.2%} test accuracy", 20
    runs: dict[str, list[dict]] = {way: [] for way in ("ours", "baseline")}
    for seed in SEEDS:
        for way, found in runs.items():
            found.append(measure("time_to_accuracy", way=way, seed=seed))
    rows, baseline = [], _seconds(runs["baseline"])
    for name in backends():
        found = (
            runs["ours"]
            if name == "tensorflow"
            else [measure("time_to_accuracy", name, way="ours", seed=SEEDS[0])]
        )
        failed = [
            f"{len(never)} of {len(some)} {who} runs never reached it (full time counted)"
            for who, some in (("baseline", runs["baseline"]), ("of our own", found))
            if (never := [run for run in some if run["reached"] is None])
        ]
        rows.append(
            row(
                what,
                "s",
                _seconds(found),
                baseline,
                "; ".join(["ImageDataGenerator", *failed]),
                target,
                backend=name,
            )
            | {"runs": {"ours": found, "baseline": runs["baseline"]}}
        )
    return rows


def _seconds(runs):
    return statistics.median(run["reached"] or run["times"][-1] for run in runs)


def step_rows() -> list[dict]:
    from catsdogs import backend

    rows = []
    for name in backends():
        # Without a GPU, the notebook trains in bfloat16 on TensorFlow only.
        for policy in (
            ("float32", "mixed_bfloat16")
            if name == "tensorflow" or backend.gpus()
            else ("float32",)
        ):
            found = measure("step", name, policy)
            rows.append(
                row(
                    f"FLOP/s of a training step, {found['dtype']}",
                    "GFLOP/s",
                    found["reached"] / 1e9,
                    found["peak"] / 1e9,
                    "peak, measured by a large matrix product",
                    0.5,
                    backend=name,
                    higher_is_better=True,
                )
            )
            rows.append(
                row(
                    f"training step, {found['dtype']}",
                    "ms",
                    found["step"] * 1e3,
                    found["step"] / (1 + found["augmentation"]) * 1e3,
                    "the same step without augmentation",
                    1 / 1.15,
                    backend=name,
                )
            )
    return rows


def memory_rows() -> list[dict]:
    found = {way: measure("memory", way=way) for way in ("ours", "baseline")}
    for way in found.values():
        way["beyond"] = way["peak"] - way["before"]
    return [
        row(
            what,
            "MB",
            found["ours"][key] / 1e6,
            found["baseline"][key] / 1e6,
            "image_dataset_from_directory(...).cache()",
            3,
        )
        for what, key in (
            ("peak memory, training on all photos", "peak"),
            ("peak memory, beyond importing Keras", "beyond"),
            ("peak memory, without memory-mapped files", "anonymous"),
        )
    ]


ROWS = {
    "time_to_accuracy": time_to_accuracy_rows,
    "reading": reading_rows,
    "waiting": waiting_rows,
    "epoch": epoch_rows,
    "step": step_rows,
    "memory": memory_rows,
}


def files() -> str:
    """The photos of this measurement, in words."""
    table = good_photos()
    return f"{len(table):,} JPEG files of {table.width.median():.0f}×{table.height.median():.0f}"


def get_photos(archive: str | None, folder: Path) -> Path:
    """Fill `folder`, a new data folder for this run, with photos; returns it.

    They are those of `archive`; without one, those in ``data/``, or else the synthetic sample.
    """
    from catsdogs import paths

    folder.mkdir()
    if archive is None and paths.photos().exists():
        (folder / "PetImages").symlink_to(paths.photos())
        (folder / "source.json").write_bytes(paths.source_file().read_bytes())
    else:
        subprocess.run(
            [
                "bash",
                PROJECT / "download_data.sh",
                *(["zip", archive] if archive else ["synthetic"]),
            ],
            check=True,
            env=os.environ | {"CATSDOGS_DATA": str(folder)},
            stdout=subprocess.DEVNULL,
        )
    return folder


def merged(before: dict, result: dict) -> dict:
    """The published result `before` with the rows of every measurement in `result` replaced.

    Ends the program where machine, photos or versions differ: their rows are not comparable.
    """
    for fact in ("machine", "photos", "synthetic", "versions"):
        if before[fact] != result[fact]:
            sys.exit(
                f"the published rows are of a different {fact} ({before[fact]}, now "
                f"{result[fact]}): run all measurements"
            )
    measured = {line["measurement"] for line in result["rows"]}
    rows = {
        name: [
            line
            for line in (result if name in measured else before)["rows"]
            if line["measurement"] == name
        ]
        for name in ROWS
    }
    return result | {"rows": [line for lines in rows.values() for line in lines]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "measurements",
        nargs="*",
        metavar="MEASUREMENT",
        help=f"one of {', '.join(MEASUREMENTS)} (default: all)",
    )
    parser.add_argument("--publish", action="store_true", help="write the result to benchmarks/")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child)
    chosen = arguments.measurements or list(MEASUREMENTS)
    if unknown := set(chosen) - set(MEASUREMENTS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(MEASUREMENTS)}")

    from catsdogs import backend, paths
    from catsdogs.data import dataset
    from catsdogs.training import records
    from tools import report

    archive, originals = (
        os.environ.get(f"CATSDOGS_BENCH_{name}") for name in ("ARCHIVE", "ORIGINALS")
    )
    with tempfile.TemporaryDirectory() as scratch:
        folders = [get_photos(archive, Path(scratch, "training"))]
        if originals:
            folders.append(get_photos(originals, Path(scratch, "originals")))
        os.environ["CATSDOGS_DATA"] = str(folders[0])
        synthetic, count = dataset.is_synthetic(), len(good_photos())
        if "time_to_accuracy" in chosen and (synthetic or count < 9_900):
            chosen.remove("time_to_accuracy")
            print("No time to accuracy: it needs the real photos 1 to 5000 of each class.")
        result: dict[str, Any] = {
            "machine": f"{backend.device()} ({records.processor()})",
            "photos": count,
            "synthetic": synthetic,
            "versions": records.versions(),
            "rows": [],
        }
        for name in chosen:
            # The originals are few: they are only for what depends on the size of the files.
            for folder in folders if name in ("reading", "epoch") else folders[:1]:
                os.environ["CATSDOGS_DATA"] = str(folder)
                result["rows"] += [line | {"measurement": name} for line in ROWS[name]()]
        os.environ["CATSDOGS_DATA"] = str(folders[0])
    build = paths.PROJECT / "benchmarks" if arguments.publish else paths.PROJECT / "build"
    build.mkdir(exist_ok=True)
    if arguments.publish and arguments.measurements:
        result = merged(json.loads((build / "bench.json").read_text()), result)
    (build / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    report.save_chart(build / "bench.json", build / "bench.png")
    print(
        f"\n{count:,} {'synthetic photos' if synthetic else 'photos'}, {result['machine']}\n\n"
        f"{report.speed_table(result['rows'])}"
    )


if __name__ == "__main__":
    main()
