"""The training recipe: schedule, optimizer, callbacks, `fit`; for every network trained here."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from catsdogs import backend
from catsdogs.analysis import audit
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset, Photos
from catsdogs.networks import augment, cnn
from catsdogs.networks.whitening import whiten
from catsdogs.text import duration
from catsdogs.training import control, optimizers, records, soft_labels
from catsdogs.training.batches import Batches
from catsdogs.training.checkpoint import Checkpoint, EMAWeights, run_key
from catsdogs.training.hyperparameters import VALIDATION_BATCH_SIZE, validate
from catsdogs.training.live import LiveCurves, estimate_seconds
from catsdogs.training.progressive import ProgressiveResizing, share_of_time

#: The baseline, a recipe that many repositories share: plain Adam, and the last epoch is kept.
BASELINE = dict(
    NETWORK="baseline",
    IMAGE_SIZE=64,
    BATCH_SIZE=32,
    EPOCHS=25,
    OPTIMIZER="adam",
    KEEP="last",
    AUGMENTATION=augment.PRESETS["baseline"],
)
#: The default of notebook 02, which explains each.
TWO_CONV = dict(
    NETWORK="two_conv",
    IMAGE_SIZE=128,
    BATCH_SIZE=64,
    EPOCHS=25,
    LEARNING_RATE=3e-3,
    WARMUP=0.1,
    WEIGHT_DECAY=1e-4,
    BIAS_MULTIPLIER=16,
    EMA_DECAY=0.995,
    FILTERS=(64, 192),
    KERNEL_SIZES=(5, 5),
    STRIDES=2,
    POOL_SIZES=(4, 3),
    POOL_STRIDES=(4, 2),
    DENSE_UNITS=128,
    DROPOUT=0.3,
    WHITEN=True,
    AUGMENTATION=augment.PRESETS["light"],
)
#: The ResNet-style network of notebook 05: trained on random crops of 128 pixels of photos of 160
#: pixels, applied to whole photos.
RESIDUAL = dict(
    NETWORK="residual",
    IMAGE_SIZE=160,
    CROP_SIZE=128,
    STEM_FILTERS=32,
    FILTERS=(64, 128, 256, 384),
    BLOCKS=(1, 1, 1, 1),
    BATCH_SIZE=64,
    EPOCHS=45,
    LEARNING_RATE=3e-3,
    WARMUP=0.1,
    WEIGHT_DECAY=0.02,
    EMA_DECAY=0.995,
    DROPOUT=0.2,
    AUGMENTATION=augment.PRESETS["crop"],
)
#: The same, larger: for a GPU.
LARGE = RESIDUAL | dict(
    IMAGE_SIZE=180,
    CROP_SIZE=160,
    STEM_FILTERS=64,
    FILTERS=(96, 192, 384, 768),
    BLOCKS=(2, 2, 3, 2),
    BATCH_SIZE=128,
    EPOCHS=120,
    WEIGHT_DECAY=0.05,
    DROPOUT=0.4,
    AUGMENTATION=augment.PRESETS["wide crop"],
)


@dataclass(frozen=True)
class Run:
    """The result of `train`.

    ``model``: in float32, with the weights of ``best_epoch`` (counted from 1). ``history``: as
    Keras keeps it. ``seconds``: the time spent training. ``key``: see
    `catsdogs.training.checkpoint.run_key`. ``interrupted``: whether epochs are missing.
    """

    model: keras.Model
    history: dict[str, list[float]]
    best_epoch: int
    seconds: float
    key: str
    interrupted: bool


def open_dataset(hyperparameters: dict, *, progress: bool = True) -> Dataset:
    """The photos that `hyperparameters` name: ``SPLIT`` and ``IMAGE_SIZE``.

    With ``LEAVE_OUT``, the training photos whose label notebook 09 found wrong are left out.
    """
    p = hyperparameters
    leave_out = audit.label_issues() if p.get("LEAVE_OUT") else ()
    return Dataset(p["SPLIT"], p["IMAGE_SIZE"], leave_out=leave_out, progress=progress)


def learning_rate_schedule(
    peak: float, steps: int, warmup: float = 0.1
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to `peak`, then cosine decay to 0.

    The warm-up takes the share `warmup` of the `steps`. The decay is that of Loshchilov and Hutter
    (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, without restarts.
    """
    warmup_steps = int(steps * warmup)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - warmup_steps, warmup_target=peak, warmup_steps=warmup_steps
    )


def optimizer(hyperparameters: dict, steps_per_epoch: int) -> keras.Optimizer:
    """AdamW with a schedule and an EMA of the weights, or plain Adam.

    AdamW takes ``LEARNING_RATE`` (the peak of the schedule), ``WARMUP``, ``WEIGHT_DECAY``,
    ``BIAS_MULTIPLIER`` (see `catsdogs.training.optimizers.AdamW`; 1 if it is not given) and
    ``EMA_DECAY``; without the last, it keeps no moving average. ``OPTIMIZER="adam"`` is Adam with
    Keras's defaults, which the baseline uses.
    """
    p = hyperparameters
    if p.get("OPTIMIZER", "adamw") == "adam":
        return keras.optimizers.Adam()
    steps = p["EPOCHS"] * steps_per_epoch
    schedule = learning_rate_schedule(p["LEARNING_RATE"], steps, p["WARMUP"])
    options = {}
    if "EMA_DECAY" in p:
        options = {"use_ema": True, "ema_momentum": ema_decay(p["EMA_DECAY"], steps_per_epoch)}
    if p.get("BIAS_MULTIPLIER", 1) == 1:
        return keras.optimizers.AdamW(schedule, weight_decay=p["WEIGHT_DECAY"], **options)
    return optimizers.AdamW(
        schedule, bias_multiplier=p["BIAS_MULTIPLIER"], weight_decay=p["WEIGHT_DECAY"], **options
    )


def ema_decay(decay: float, steps_per_epoch: int) -> float:
    """`decay`, limited so that the moving average never looks back more than about one epoch."""
    return min(decay, 1 - 1 / steps_per_epoch)


def training_model(
    hyperparameters: dict, build: Callable[[dict], keras.Model] = cnn.build
) -> tuple[keras.Model, keras.Model]:
    """The model to train, with data augmentation in front, and the network inside it.

    The network alone is what will be saved. Both compute in ``PRECISION``; their weights are
    float32 in any case.
    """
    p = hyperparameters
    keras.utils.set_random_seed(p["SEED"])
    with backend.precision(p["PRECISION"]):
        network = build(p)
        images = keras.Input((p["IMAGE_SIZE"], p["IMAGE_SIZE"], 3))
        augmented = augment.augmentation(p["AUGMENTATION"], p["SEED"], p.get("CROP_SIZE"))(images)
        return keras.Model(images, network(augmented)), network


def train(
    hyperparameters: dict,
    dataset: Dataset,
    *,
    build: Callable[[dict], keras.Model] = cnn.build,
    resume: bool = True,
) -> Run:
    """Train a network on the training set of `dataset`; its validation set chooses the epoch.

    `hyperparameters` are those of a run record, such as `TWO_CONV` with ``SPLIT``, ``SEED`` and
    ``PRECISION``; `build` makes the network from them. With `resume`, an interrupted run is
    resumed.

    Raises `catsdogs.training.hyperparameters.HyperparameterError` for hyperparameters that nothing
    can be trained with, and the errors of `catsdogs.training.control`.
    """
    p = validate(hyperparameters)
    with control.one_training():
        model, network = training_model(p, build)
        if p.get("WHITEN"):
            convolutions = [one for one in network.layers if isinstance(one, keras.layers.Conv2D)]
            whiten(convolutions[0], dataset.train.images)
        name = run_key(model, p, dataset.describe())
        targets = None
        if p.get("LABEL_SMOOTHING") or p.get("SOFT_LABELS"):
            targets = soft_labels.mixed(dataset, p.get("LABEL_SMOOTHING"), p.get("SOFT_LABELS"))
        done = fit(model, dataset.train, dataset.val, p, name, resume=resume, targets=targets)
    trained = build(p)  # in float32, which every machine computes alike
    if trained.input_shape[1] is None:
        # It was trained on crops; it is applied to, and from now on takes, images of one size.
        images = keras.Input((p["IMAGE_SIZE"], p["IMAGE_SIZE"], 3))
        trained = keras.models.clone_model(trained, input_tensors=images)
    trained.set_weights(network.get_weights())
    return Run(trained, done.history, done.best_epoch, done.seconds, name, done.interrupted)


def key(
    hyperparameters: dict, dataset: Dataset, *, build: Callable[[dict], keras.Model] = cnn.build
) -> str:
    """The key of the run that `train` would make: `catsdogs.training.records.find` looks it up."""
    p = validate(hyperparameters)
    return run_key(training_model(p, build)[0], p, dataset.describe())


def save(name: str, run: Run, hyperparameters: dict, dataset: Dataset, metrics: dict) -> None:
    """Save the model and the record of a run, as `records.save_run` does."""
    records.save_run(
        name,
        run.model,
        data=dataset.describe(),
        hyperparameters=hyperparameters,
        history=run.history,
        best_epoch=run.best_epoch,
        metrics=metrics,
        seconds=run.seconds,
        run_key=run.key,
    )


def fit(
    model: keras.Model,
    train: Photos,
    val: Photos,
    hyperparameters: dict,
    key: str,
    *,
    resume: bool = True,
    targets: np.ndarray | None = None,
) -> Checkpoint:
    """Compile and fit `model`, with checkpoints and live curves; the best epoch is restored.

    `train` and `val` are `Photos`, or anything else with ``images`` and ``labels``, such as feature
    maps. `key` names the run for its checkpoint. With `targets`, those soft labels, (photos,), are
    learned in place of the training set's; validation is by the labels in any case.
    """
    p = hyperparameters
    batches = Batches(
        train, p["BATCH_SIZE"], p["SEED"], class_weight=p.get("CLASS_WEIGHT"), targets=targets
    )
    # The sparse one takes labels that are numbers, 0 or 1, where the other takes rows, (0, 1).
    loss = "sparse_categorical_crossentropy" if p.get("SOFTMAX") else "binary_crossentropy"
    model.compile(
        optimizer(p, batches.steps),
        loss,
        # Keras's own accuracy is 0 for soft labels: no prediction equals them.
        metrics=["accuracy" if targets is None else soft_labels.Accuracy()],
        jit_compile=backend.jit_compile(),
    )
    seconds = estimate_seconds(model, batches, p["EPOCHS"], val)
    if "FIRST_CROP_SIZE" in p:
        last = p.get("CROP_SIZE", p["IMAGE_SIZE"])
        seconds *= share_of_time(p["EPOCHS"], p["FIRST_CROP_SIZE"], last)
    where = f"{backend.device()}, Keras on {backend.name()}, {p['PRECISION']}"
    print(f"{where}: about {duration(seconds)} for {p['EPOCHS']} epochs")

    name = f"{key}-{p['PRECISION']}"
    checkpoint = Checkpoint(name, batches, resume=resume, keep=p.get("KEEP", "best"))
    extra: list[keras.callbacks.Callback] = [EMAWeights()] if model.optimizer.use_ema else []
    if "FIRST_CROP_SIZE" in p:
        extra.append(ProgressiveResizing(p["FIRST_CROP_SIZE"]))
    with control.one_training():
        model.fit(
            batches,
            steps_per_epoch=batches.steps,
            shuffle=False,  # the batches are shuffled already
            validation_data=(val.images, val.labels[:, None]),
            validation_batch_size=VALIDATION_BATCH_SIZE,
            epochs=p["EPOCHS"],
            callbacks=[checkpoint, *extra, LiveCurves(checkpoint)],
            verbose=0,
        )
    return checkpoint
