"""The training recipe: schedule, optimizer, callbacks and `fit`, for every network that is trained here."""

from collections.abc import Callable
from dataclasses import dataclass

from catsdogs import backend
from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset, Photos
from catsdogs.networks import augment, cnn
from catsdogs.networks.whitening import whiten
from catsdogs.text import duration
from catsdogs.training import records
from catsdogs.training.batches import Batches
from catsdogs.training.checkpoint import Checkpoint, EMAWeights, run_key
from catsdogs.training.live import LiveCurves, estimate_seconds

#: The baseline: the recipe that many repositories share. Adam with its defaults, and the last epoch is kept.
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
    EMA_DECAY=0.995,
    FILTERS=(64, 128),
    KERNEL_SIZES=(5, 5),
    STRIDES=2,
    POOL_SIZES=(4, 3),
    DENSE_UNITS=128,
    DROPOUT=0.4,
    WHITEN=True,
    AUGMENTATION=augment.PRESETS["light"],
)
#: The ResNet-style network of notebook 05: trained on crops of 128 pixels of photos of 160, applied to whole ones.
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
    """A run of `train`: ``model``, in float32, with the weights of ``best_epoch`` (counted from 1); ``history`` as Keras keeps
    it; ``seconds`` of training; ``key`` (see `catsdogs.training.checkpoint.run_key`); whether it was ``interrupted``."""

    model: keras.Model
    history: dict[str, list[float]]
    best_epoch: int
    seconds: float
    key: str
    interrupted: bool


def learning_rate_schedule(
    peak: float, steps: int, warmup: float = 0.1
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to `peak` during the first share `warmup` of the `steps`, then a cosine decay to 0.

    Loshchilov and Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, without restarts.
    """
    warmup_steps = int(steps * warmup)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - warmup_steps, warmup_target=peak, warmup_steps=warmup_steps
    )


def optimizer(hyperparameters: dict, steps_per_epoch: int) -> keras.Optimizer:
    """The optimizer that `hyperparameters` name: AdamW with a schedule and an EMA of the weights, or plain Adam.

    AdamW takes ``LEARNING_RATE`` (its peak), ``WARMUP``, ``WEIGHT_DECAY`` and ``EMA_DECAY``; without the last, no moving
    average is kept. With ``OPTIMIZER="adam"``, it is Adam with Keras's defaults, as the baseline has it.
    """
    p = hyperparameters
    if p.get("OPTIMIZER", "adamw") == "adam":
        return keras.optimizers.Adam()
    schedule = learning_rate_schedule(
        p["LEARNING_RATE"], p["EPOCHS"] * steps_per_epoch, p["WARMUP"]
    )
    if "EMA_DECAY" not in p:
        return keras.optimizers.AdamW(schedule, weight_decay=p["WEIGHT_DECAY"])
    return keras.optimizers.AdamW(
        schedule,
        weight_decay=p["WEIGHT_DECAY"],
        use_ema=True,
        ema_momentum=ema_decay(p["EMA_DECAY"], steps_per_epoch),
    )


def ema_decay(decay: float, steps_per_epoch: int) -> float:
    """`decay`, or less where an epoch has few steps, so that the moving average looks back one epoch at most."""
    return min(decay, 1 - 1 / steps_per_epoch)


def training_model(
    hyperparameters: dict, build: Callable[[dict], keras.Model] = cnn.build
) -> tuple[keras.Model, keras.Model]:
    """The model to train, augmentation in front, and the network in it, which is what will be saved.

    Both compute in ``PRECISION``; weights are float32 in any case.
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
    """Train a network on the training set of `dataset`, choosing the epoch by its validation set.

    `hyperparameters` are those of a run record, such as `TWO_CONV` with ``SEED`` and ``PRECISION``; `build` makes the network
    of them. With `resume`, a run that was cut short goes on where it was.
    """
    p = hyperparameters
    model, network = training_model(p, build)
    if p.get("WHITEN"):
        whiten(
            next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)),
            dataset.train.images,
        )
    key = run_key(model, p, dataset.describe())
    checkpoint = fit(model, dataset.train, dataset.val, p, key, resume=resume)
    trained = build(p)  # in float32, to be at home anywhere
    trained.set_weights(network.get_weights())
    return Run(
        trained,
        checkpoint.history,
        checkpoint.best_epoch,
        checkpoint.seconds,
        key,
        checkpoint.interrupted,
    )


def key(
    hyperparameters: dict, dataset: Dataset, *, build: Callable[[dict], keras.Model] = cnn.build
) -> str:
    """The key of the run that `train` would make, by which `catsdogs.training.records.find` knows one that is on record."""
    return run_key(training_model(hyperparameters, build)[0], hyperparameters, dataset.describe())


def save(
    name: str, run: Run, hyperparameters: dict, dataset: Dataset, metrics: dict, **options
) -> None:
    """Save a run of `train` and its record; `options` are those of `catsdogs.training.records.save_run`."""
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
        **options,
    )


def fit(
    model: keras.Model,
    train: Photos,
    val: Photos,
    hyperparameters: dict,
    key: str,
    *,
    resume: bool = True,
) -> Checkpoint:
    """Compile `model` and fit it to `train`, with checkpoints and live curves; it ends with the weights of the epoch to keep.

    `train` and `val` are `Photos`, or anything that has ``images`` and ``labels`` like them.
    """
    p = hyperparameters
    batches = Batches(train, p["BATCH_SIZE"], p["SEED"])
    # The sparse one is the categorical cross-entropy for labels that are numbers, 0 or 1, not rows such as (0, 1).
    loss = "sparse_categorical_crossentropy" if p.get("SOFTMAX") else "binary_crossentropy"
    model.compile(
        optimizer(p, batches.steps), loss, metrics=["accuracy"], jit_compile=backend.jit_compile()
    )
    seconds = estimate_seconds(model, batches, p["EPOCHS"])
    print(
        f"{backend.device()}, Keras on {backend.name()}, {p['PRECISION']}: about {duration(seconds)} for {p['EPOCHS']} epochs"
    )

    checkpoint = Checkpoint(
        f"{key}-{p['PRECISION']}", batches, resume=resume, keep=p.get("KEEP", "best")
    )
    ema = [EMAWeights()] if model.optimizer.use_ema else []
    model.fit(
        batches,
        steps_per_epoch=batches.steps,
        shuffle=False,  # batches come shuffled
        validation_data=(val.images, val.labels[:, None]),
        validation_batch_size=128,
        epochs=p["EPOCHS"],
        callbacks=[checkpoint, *ema, LiveCurves(checkpoint)],
        verbose=0,
    )
    return checkpoint
