"""The training recipe of notebook 02 in PyTorch: schedule, optimizer, EMA, epochs, checkpoints.

PyTorch is optional (``pip install -e ".[torch]"``), so only notebook 07 and its tests import this
module.
"""

import copy
import io
import json
import math
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from catsdogs import backend, files, paths
from catsdogs.data.dataset import Dataset, Photos
from catsdogs.networks.pytorch import (
    augment,
    build,
    count_parameters,
    device_of,
    predict,
    whiten,
)
from catsdogs.training import checkpoint, records
from catsdogs.training.control import DivergedError
from catsdogs.training.fit import ema_decay
from catsdogs.training.live import LiveCurves

#: The run record that the project includes.
INCLUDED = "pytorch"


@dataclass
class State:
    """All that training changes: network, EMA of its weights, optimizer, learning rate schedule."""

    model: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler


@dataclass
class Progress:
    """How far a run has come.

    ``history`` as Keras keeps it; ``best_epoch``, counted from 1, and ``best``, the EMA's weights
    and batch statistics after it; ``seconds`` of training.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int = 0
    best: dict[str, torch.Tensor] | None = None
    seconds: float = 0.0

    @property
    def epochs_done(self) -> int:
        """How many epochs have been trained, those before an interruption included."""
        return len(self.history.get("loss", []))


@dataclass(frozen=True)
class Run:
    """A run of `train`: ``model``, with the EMA weights of ``best_epoch``; see `Progress`.

    A finished run that was taken from its ``record`` has no model: its weights stay on the machine
    that trained it.
    """

    model: nn.Module | None
    history: dict[str, list[float]]
    best_epoch: int
    seconds: float
    record: dict | None = None


def default_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """`device` in words: ``"NVIDIA L4"`` or ``"CPU, 8 cores"``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = os.cpu_count()
    return f"CPU, {cores} core{'s' if cores != 1 else ''}"


def faster_precision(device: torch.device) -> str:
    """``"bfloat16"`` where `device` multiplies such numbers in hardware, else ``"float32"``."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if backend.processor_multiplies_bfloat16() else "float32"


def learning_rate_factor(step: int, steps: int, warmup: float = 0.1) -> float:
    """The learning rate at `step` as a share of its peak: linear warm-up, then cosine decay to 0.

    Warm-up takes the first share `warmup` of the steps. The same as
    `catsdogs.training.fit.learning_rate_schedule`.
    """
    warmup_steps = int(steps * warmup)
    if step < warmup_steps:
        return step / warmup_steps
    return (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2


def parameter_groups(model: nn.Module, hyperparameters: dict) -> list[dict]:
    """The parameters of `model` for an optimizer, the biases of batch normalization apart.

    Those learn ``BIAS_MULTIPLIER`` times as fast, as in `catsdogs.training.optimizers.AdamW`.
    PyTorch multiplies weight decay by the learning rate, so theirs is divided by it.
    """
    p, times = hyperparameters, hyperparameters["BIAS_MULTIPLIER"]
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    biases = {id(norm.bias): norm.bias for norm in norms}
    rest = [one for one in model.parameters() if id(one) not in biases]
    faster = dict(lr=times * p["LEARNING_RATE"], weight_decay=p["WEIGHT_DECAY"] / times)
    return [
        dict(params=rest, weight_decay=p["WEIGHT_DECAY"]),
        dict(params=list(biases.values()), **faster),
    ]


def start(hyperparameters: dict, photos: Photos, device: torch.device) -> State:
    """The `State` before the first step; the network's first layer is made from `photos`."""
    p = hyperparameters
    torch.manual_seed(p["SEED"])
    model = build(p)
    if p["WHITEN"]:
        whiten(model.conv1, photos.images)
    model = model.to(device, memory_format=torch.channels_last)
    steps_per_epoch = math.ceil(len(photos) / p["BATCH_SIZE"])
    steps = p["EPOCHS"] * steps_per_epoch
    groups = parameter_groups(model, p) if p.get("BIAS_MULTIPLIER", 1) != 1 else model.parameters()
    optimizer = torch.optim.AdamW(
        groups, p["LEARNING_RATE"], eps=1e-7, weight_decay=p["WEIGHT_DECAY"], fused=True
    )
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, p["WARMUP"]))
    decay = ema_decay(p["EMA_DECAY"], steps_per_epoch)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return State(model, ema, optimizer, scheduler)


def train_epoch(
    state: State, photos: Photos, hyperparameters: dict, epoch: int
) -> tuple[float, float]:
    """Train for one `epoch`, counted from 0, on `photos`; returns the mean loss and the accuracy.

    The order of the photos, their augmentation and dropout depend on ``SEED`` and `epoch` alone.
    """
    p = hyperparameters
    device = device_of(state.model)
    state.model.train()
    torch.manual_seed(1000 * p["SEED"] + epoch)
    total_loss = correct = 0
    for chosen in torch.randperm(len(photos)).split(p["BATCH_SIZE"]):
        images = torch.from_numpy(photos.images[chosen.numpy()]).to(device)
        labels = torch.from_numpy(photos.labels[chosen.numpy()]).to(device, torch.float32)
        images = augment(images, **p["AUGMENTATION"]).permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=p["PRECISION"] == "bfloat16"):
            logits = state.model(images).float()
            loss = F.binary_cross_entropy_with_logits(logits, labels)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.scheduler.step()
        state.ema.update_parameters(state.model)
        # Summed on the device, so that no step waits for a number to come back.
        total_loss += loss.detach() * len(labels)
        correct += ((logits.detach() > 0) == labels.bool()).sum()
    return float(total_loss) / len(photos), float(correct) / len(photos)


def validate(state: State, photos: Photos, hyperparameters: dict) -> tuple[float, float]:
    """The mean loss and the accuracy of the EMA of the weights on `photos`, the validation set."""
    logits = predict(state.ema.module, photos.images, precision=hyperparameters["PRECISION"])
    labels = torch.from_numpy(photos.labels).float()
    loss = F.binary_cross_entropy_with_logits(logits, labels)
    return float(loss), float(((logits > 0) == labels.bool()).float().mean())


def train(
    hyperparameters: dict,
    dataset: Dataset,
    name: str,
    *,
    device: torch.device,
    resume: bool | str = True,
    start: Callable[[dict, Photos, torch.device], State] = start,
    train_epoch: Callable[[State, Photos, dict, int], tuple[float, float]] = train_epoch,
    validate: Callable[[State, Photos, dict], tuple[float, float]] = validate,
) -> Run:
    """Train a network on the training set of `dataset`, choosing the epoch by its validation set.

    `hyperparameters` are those of a run record: `catsdogs.training.fit.TWO_CONV` with ``SEED`` and
    ``PRECISION``. A checkpoint is written after every epoch (see `catsdogs.paths.checkpoints`).
    With `resume`, a run of the same network, hyperparameters and photos that was interrupted
    resumes from it, so that at most one epoch is lost; with ``resume="finished"``, the run on
    record as `name`, or the included one, is taken if it is the same. `start`, `train_epoch` and
    `validate` are those of this module, or of a notebook that has written them out.
    """
    p = hyperparameters
    state = start(p, dataset.train, device)
    path = paths.checkpoints() / f"{name}.pt"
    key = json.dumps([str(state.model), p, dataset.describe()], sort_keys=True)
    record = _on_record(name, p, dataset) if resume == "finished" else None
    progress = (resume and _load(path, key, state, device)) or Progress()
    if record:
        progress = Progress(record["history"], record["best_epoch"], None, record["seconds"])
    print(f"{device_name(device)}, PyTorch {torch.__version__}, {p['PRECISION']}")
    live = LiveCurves(progress)
    live.set_params({"epochs": p["EPOCHS"]})
    live.on_train_begin()
    for epoch in range(progress.epochs_done, p["EPOCHS"]):
        started = time.monotonic()
        live.on_epoch_begin(epoch)
        loss, accuracy = train_epoch(state, dataset.train, p, epoch)
        val_loss, val_accuracy = validate(state, dataset.val, p)
        if not math.isfinite(loss + val_loss):  # nothing is smaller than NaN, so no later epoch
            path.unlink(missing_ok=True)  # could become the best one, and none can be resumed
            raise DivergedError(epoch + 1)
        logs = dict(loss=loss, accuracy=accuracy, val_loss=val_loss, val_accuracy=val_accuracy)
        for measure, value in logs.items():
            progress.history.setdefault(measure, []).append(value)
        if (
            progress.best is None
            or val_loss < progress.history["val_loss"][progress.best_epoch - 1]
        ):
            progress.best_epoch = epoch + 1
            progress.best = copy.deepcopy(state.ema.module.state_dict())
        progress.seconds += time.monotonic() - started
        _save(path, key, state, progress)
        live.on_epoch_end(epoch, logs)
    live.on_train_end()
    if record:
        return Run(None, record["history"], record["best_epoch"], record["seconds"], record)
    path.unlink(missing_ok=True)
    state.model.load_state_dict(progress.best)
    return Run(state.model.eval(), progress.history, progress.best_epoch, progress.seconds)


def _on_record(name: str, hyperparameters: dict, dataset: Dataset) -> dict | None:
    """The record of run `name`, or the included one, if it is of the same run; or None."""
    asked = json.loads(json.dumps(hyperparameters | {"PRECISION": ""}))
    for found in filter(records.exists, (name, INCLUDED)):
        try:
            record = records.read(found)
        except files.DamagedFileError:  # it can be trained again
            continue
        same = record["hyperparameters"] | {"PRECISION": ""} == asked
        if same and record["data"] == dataset.describe():
            print(f"On record as {found}, trained {record['finished'][:10]}: not trained again.")
            return record
    return None


def _save(path: Path, key: str, state: State, progress: Progress) -> None:
    parts = {name: part.state_dict() for name, part in vars(state).items()}
    saved = {"key": key, "progress": vars(progress), "state": parts}
    checkpoint.write(path, _packed(saved))


def _load(path: Path, key: str, state: State, device: torch.device) -> Progress | None:
    """Restore `state` from a checkpoint of run `key`; its progress, or None where there is none."""
    if not path.exists():
        return None
    before = {name: copy.deepcopy(part.state_dict()) for name, part in vars(state).items()}
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load compares no checksums
                raise ValueError(f"{damaged} in it is damaged")
        saved = torch.load(path, map_location=device, weights_only=True)
        if saved["key"] != key:
            return None
        progress = Progress(**saved["progress"])
        checkpoint.check_progress(progress.history, progress.best_epoch, progress.seconds)
        copy.deepcopy(state.model).load_state_dict(progress.best)
        for name, part in vars(state).items():
            part.load_state_dict(saved["state"][name])
    except Exception as error:  # whatever is wrong with it, the run can be trained
        for name, part in vars(state).items():
            part.load_state_dict(before[name])
        reason = str(error).split("\n")[0]
        print(f"{paths.shown(path)} cannot be read ({reason}): starting from the first epoch.")
        return None
    print(f"Resuming after epoch {progress.epochs_done} of a run that was interrupted.")
    return progress


def _packed(content) -> bytes:
    """What `torch.save` writes; of a full disk, it says nothing that can be understood."""
    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


def save(
    name: str, run: Run, hyperparameters: dict, dataset: Dataset, metrics: dict, **facts
) -> Path:
    """Save the weights of `run` as ``model.pt`` of the run `name`, and its record with `facts`.

    Returns the path of the weights. `metrics` maps a subset to
    `catsdogs.analysis.metrics.evaluate`'s result.
    """
    path = records.own_folder(name) / "model.pt"
    files.write(path, _packed(run.model.state_dict()))
    records.save_record(
        name,
        path,
        parameters=count_parameters(run.model),
        data=dataset.describe(),
        hyperparameters=hyperparameters,
        history=run.history,
        best_epoch=run.best_epoch,
        metrics=metrics,
        seconds=run.seconds,
        device=device_name(device_of(run.model)),
        library="PyTorch",
    )
    records.add_facts(name, **facts)
    return path
