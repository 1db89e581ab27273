"""The PyTorch network, augmentation and steps are Keras's; notebook 07 has the same code."""

import ast
import json
import math
from unittest.mock import Mock

import keras
import nbformat
import numpy as np
import pytest

from catsdogs import files, notebooks, paths
from catsdogs.analysis.metrics import evaluate
from catsdogs.data.dataset import Dataset, Photos
from catsdogs.networks import augment, cnn, whitening
from catsdogs.training import control, fit, optimizers, records

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

from catsdogs.networks import pytorch as networks  # noqa: E402
from catsdogs.training import pytorch as training  # noqa: E402

SHIPPED = paths.PROJECT / "models"
NOTEBOOK = paths.PROJECT / "notebooks" / "07_the_same_in_pytorch.ipynb"
CPU = torch.device("cpu")
P = fit.TWO_CONV | dict(
    SPLIT="full",
    IMAGE_SIZE=56,
    BATCH_SIZE=16,
    EPOCHS=3,
    LEARNING_RATE=1e-3,
    BIAS_MULTIPLIER=16,
    FILTERS=[4, 8],
    POOL_STRIDES=[4, 2],
    DENSE_UNITS=8,
    EMA_DECAY=0.9,
    SEED=0,
    PRECISION="float32",
)


def some_photos(count, size):
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.uint8)
    images = rng.integers(0, 200, (count, size, size, 3)) + 50 * labels[:, None, None, None]
    return Photos(images.astype(np.uint8), labels, [f"{n}.jpg" for n in range(count)])


# --- the same network -----------------------------------------------------------------------------


def test_the_included_model_predicts_the_same_in_both(synthetic):
    keras_model = keras.saving.load_model(SHIPPED / "two-conv" / "model.keras", compile=False)
    record = json.loads((SHIPPED / "two-conv" / "record.json").read_text())
    model = networks.keras_to_torch(keras_model, networks.build(record["hyperparameters"]))
    assert networks.count_parameters(model) == keras_model.count_params() == record["parameters"]
    train = Dataset("full", 128).train
    noise = np.random.default_rng(0).integers(0, 256, (20, 128, 128, 3), dtype=np.uint8)
    for images in (train.images[:40], noise):
        expected = keras_model.predict(images, verbose=0)[:, 0]
        found = networks.predict(model, images).sigmoid().numpy()
        assert expected.std() > 0.01 and abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"IMAGE_SIZE": 61},
        {"KERNEL_SIZES": [4, 3]},
        {"KERNEL_SIZES": [1, 2], "POOL_SIZES": [3, 2]},
        {"IMAGE_SIZE": 75, "KERNEL_SIZES": [6, 5], "POOL_SIZES": [2, 4]},
        {"IMAGE_SIZE": 85, "STRIDES": 3},
        {"IMAGE_SIZE": 77, "POOL_STRIDES": [3, 1]},
        {"POOL_STRIDES": None},
    ],
)
def test_different_sizes_are_the_same_in_both(sizes):
    """Odd image sizes and other kernels pad differently; no weight has its initial value."""
    p = P | sizes
    keras_model, rng = cnn.build(p), np.random.default_rng(0)
    keras_model.set_weights(
        [
            rng.uniform(0.2, 1, w.shape) if w.ndim == 1 else rng.normal(0, 0.3, w.shape)
            for w in keras_model.get_weights()
        ]
    )
    model = networks.keras_to_torch(keras_model, networks.build(p))
    assert networks.count_parameters(model) == keras_model.count_params()
    images = some_photos(12, p["IMAGE_SIZE"]).images
    expected = keras_model.predict(images, verbose=0)[:, 0]
    assert expected.std() > 1e-3
    np.testing.assert_allclose(
        networks.predict(model, images).sigmoid().numpy(), expected, atol=1e-4
    )


def test_a_keras_network_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape \(16, 4, 5, 5\).* for one of \(8, 4, 5, 5\)"):
        networks.keras_to_torch(cnn.build(P | {"FILTERS": [4, 16]}), networks.build(P))
    with pytest.raises(ValueError, match="for one of"):
        networks.keras_to_torch(cnn.build(P | {"SOFTMAX": True}), networks.build(P))
    for wrong in ({"NETWORK": "residual"}, {"SOFTMAX": True}):
        with pytest.raises(ValueError, match="there is 'two_conv' only"):
            networks.build(P | wrong)


def test_weights_are_initialized_as_in_keras():
    p = P | {"FILTERS": [16, 32], "IMAGE_SIZE": 128, "DENSE_UNITS": 64}
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)
    theirs = [w for w in cnn.build(p).get_weights() if w.ndim > 1]
    model = networks.build(p)
    ours = [layer.weight for layer in (model.conv1, model.conv2, model.dense, model.output)]
    for our, their in zip(ours, theirs, strict=True):
        assert our.numel() == their.size and float(our.detach().std()) == pytest.approx(
            their.std(), rel=0.2
        )


def test_the_whitening_initialization_is_the_same():
    photos = some_photos(40, 56)
    convolution = keras.layers.Conv2D(4, 5, use_bias=False)
    convolution.build((None, 56, 56, 3))
    whitening.whiten(convolution, photos.images)
    state = training.start(P, photos, CPU)
    found = state.model.conv1.weight.detach().permute(2, 3, 1, 0).numpy()
    assert np.array_equal(found, keras.ops.convert_to_numpy(convolution.kernel))


# --- the same data augmentation -------------------------------------------------------------------


def test_augmented_images_are_those_of_the_keras_layer_and_as_frequent():
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    count = 3000
    theirs = augment.RandomAugmentation(shift=1 / 16, seed=0)(
        image.repeat(count, 0).astype("float32"), training=True
    )
    theirs = keras.ops.convert_to_numpy(theirs).round().astype(np.uint8)
    torch.manual_seed(0)
    ours = networks.augment(torch.from_numpy(image.repeat(count, 0)), shift=1 / 16)
    assert ours.dtype == torch.uint8 and ours.shape == (count, 16, 16, 3)
    (views, shares), (expected, expected_shares) = (
        np.unique(found.reshape(count, -1), axis=0, return_counts=True)
        for found in (ours.numpy(), theirs)
    )
    # 3 places across, 3 down, flipped or not
    assert len(views) == 18 and np.array_equal(views, expected)
    assert abs(shares - expected_shares).max() / count < 0.03


def test_each_image_of_a_batch_is_augmented_on_its_own():
    images = torch.from_numpy(some_photos(32, 64).images)
    torch.manual_seed(0)
    views = networks.augment(images, shift=1 / 16)
    inner = slice(8, 56)
    found = set()
    for image, view in zip(images, views):
        matches = [
            (down, right, flipped)
            for down in range(-4, 5)
            for right in range(-4, 5)
            for flipped in (False, True)
            if torch.equal(
                (view.flip(1) if flipped else view)[inner, inner],
                image[8 + down : 56 + down, 8 + right : 56 + right],
            )
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 16


def test_augmentation_that_is_off_changes_nothing():
    images = torch.from_numpy(some_photos(8, 32).images)
    assert torch.equal(networks.augment(images, flip=False), images)
    flipped = networks.augment(images)  # and no translation
    same = [torch.equal(new, old) for new, old in zip(flipped, images)]
    turned = [torch.equal(new.flip(1), old) for new, old in zip(flipped, images)]
    assert all(a != b for a, b in zip(same, turned))


# --- the same steps -------------------------------------------------------------------------------


def test_the_learning_rate_is_that_of_keras():
    for steps in (7, 60, 705):
        for warmup in (0.1, 0.3):
            schedule = fit.learning_rate_schedule(3e-3, steps, warmup)
            ours = [
                3e-3 * training.learning_rate_factor(step, steps, warmup)
                for step in range(steps + 1)
            ]
            np.testing.assert_allclose(
                ours, [float(schedule(step)) for step in range(steps + 1)], atol=1e-8
            )
        expected = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=steps - steps // 10, warmup_target=3e-3, warmup_steps=steps // 10
        )
        ours = [3e-3 * training.learning_rate_factor(step, steps) for step in range(steps + 1)]
        np.testing.assert_allclose(
            ours, [float(expected(step)) for step in range(steps + 1)], atol=1e-8
        )


@pytest.mark.parametrize("times", [1, 16])
def test_steps_change_weights_and_their_ema_as_in_keras(times):
    """From the same weights, on the same photos in the same order."""
    p = P | {
        "BIAS_MULTIPLIER": times,
        "DROPOUT": 0.0,
        "WHITEN": False,
        "EPOCHS": 2,
        "AUGMENTATION": dict(flip=False, shift=0.0),
    }
    photos = some_photos(64, 56)
    # Adam's first steps divide by the gradient's size, so rounding shows where a gradient is
    # nearly 0. With this seed, none is.
    keras.utils.set_random_seed(1)
    keras_model = cnn.build(p)
    state = training.start(p, photos, CPU)
    networks.keras_to_torch(keras_model, state.model)
    keras_model.compile(
        loss="binary_crossentropy",
        optimizer=optimizers.AdamW(
            p["LEARNING_RATE"],
            bias_multiplier=times,
            weight_decay=0.5,
            use_ema=True,
            ema_momentum=0.75,
        ),
    )
    groups = state.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [1e-4, 1e-4 / 16][: 1 + (times > 1)]
    for group, multiplier in zip(groups, (1, times)):
        # Enough weight decay to see which weights decay, and how.
        group |= {"lr": multiplier * p["LEARNING_RATE"], "weight_decay": 0.5 / multiplier}
    state.scheduler = Mock()  # the rate stays
    loss, _ = training.train_epoch(state, photos, p, 0)

    torch.manual_seed(0)
    losses = [
        keras_model.train_on_batch(
            photos.images[chosen], photos.labels[chosen, None].astype("float32")
        )
        for chosen in torch.randperm(64).numpy().reshape(4, 16)
    ]
    assert loss == pytest.approx(np.mean(losses), abs=1e-4)
    expected = networks.keras_to_torch(keras_model, networks.build(p)).state_dict()
    assert_alike(state.model.state_dict(), expected)
    averages = keras_model.optimizer._model_variables_moving_average
    for variable, average in zip(keras_model.trainable_variables, averages, strict=True):
        variable.assign(average)
    expected = networks.keras_to_torch(keras_model, networks.build(p)).state_dict()
    assert_alike(state.ema.module.state_dict(), expected)


def assert_alike(found, expected):
    for name, value in found.items():
        if "num_batches" in name:
            continue
        # PyTorch's running variance is the unbiased estimate, Keras's that of the batch: with 16
        # numbers, 15/16 of it.
        tolerance = 1e-2 if name in ("norm2.running_var", "norm3.running_var") else 2e-4
        assert abs(value - expected[name]).max() <= tolerance * max(
            1, float(abs(expected[name]).max())
        ), name


def test_the_ema_after_the_first_step_is_the_weights_and_then_remembers():
    photos = some_photos(48, 56)
    state = training.start(P, photos, CPU)
    assert math.ceil(48 / P["BATCH_SIZE"]) == 3
    steps, update = [], state.ema.update_parameters
    state.ema.update_parameters = lambda model: (
        steps.append([w.detach().clone() for w in model.parameters()]),
        update(model),
    )
    training.train_epoch(state, photos, P, 0)
    training.train_epoch(state, photos, P, 1)
    momentum = 1 - 1 / 3  # below EMA_DECAY, as an epoch has three steps only
    expected = steps[0]
    for weights in steps[1:]:
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, weights)]
    for average, value in zip(state.ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(average.detach(), value, atol=1e-5, rtol=1e-4)
    for average, value in zip(state.ema.module.buffers(), state.model.buffers(), strict=True):
        assert torch.equal(average, value)


# --- checkpoints ----------------------------------------------------------------------------------


def interrupted_at(epoch):
    def train_epoch(state, photos, p, now):
        if now == epoch:
            raise KeyboardInterrupt
        return training.train_epoch(state, photos, p, now)

    return train_epoch


def test_an_interrupted_run_resumes_as_if_it_had_not_been(synthetic, capsys):
    dataset = Dataset("full", 56)
    whole = training.train(P, dataset, "pytorch", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        training.train(P, dataset, "pytorch", device=CPU, train_epoch=interrupted_at(2))
    assert [file.name for file in paths.checkpoints().iterdir()] == ["pytorch.pt"]
    resumed = training.train(P, dataset, "pytorch", device=CPU)
    assert "Resuming after epoch 2" in capsys.readouterr().out
    assert resumed.history == whole.history and len(whole.history["loss"]) == 3
    assert whole.best_epoch == resumed.best_epoch == int(np.argmin(whole.history["val_loss"])) + 1
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    assert not list(paths.checkpoints().iterdir())


@pytest.mark.parametrize("reason", ["hyperparameters", "network", "damaged", "not asked for"])
def test_a_checkpoint_that_does_not_fit_is_not_resumed(synthetic, capsys, reason):
    dataset, p = Dataset("full", 56), P | {"EPOCHS": 2}
    with pytest.raises(KeyboardInterrupt):
        training.train(p, dataset, "pytorch", device=CPU, train_epoch=interrupted_at(1))
    options = {}
    if reason == "hyperparameters":
        p |= {"SEED": 1}
    elif reason == "network":
        options["start"] = lambda p, *rest: training.start(p | {"DROPOUT": 0.1}, *rest)
    elif reason == "damaged":
        path = paths.checkpoints() / "pytorch.pt"
        path.write_bytes(path.read_bytes()[:1000])
    else:
        options["resume"] = False
    epochs = []

    def train_epoch(state, photos, p, epoch):
        epochs.append(epoch)
        return training.train_epoch(state, photos, p, epoch)

    training.train(p, dataset, "pytorch", device=CPU, train_epoch=train_epoch, **options)
    assert epochs == [0, 1]
    assert ("cannot be read" in capsys.readouterr().out) == (reason == "damaged")


@pytest.mark.parametrize("losses", [(float("nan"), 0.5), (0.5, float("inf"))])
def test_a_loss_that_is_no_number_ends_the_run(synthetic, losses):
    dataset, epochs = Dataset("full", P["IMAGE_SIZE"], progress=False), []

    def train_epoch(state, photos, p, epoch):
        epochs.append(epoch)
        return losses[0], 0.5

    with pytest.raises(control.DivergedError, match="in epoch 1"):
        training.train(
            P,
            dataset,
            "pytorch",
            device=CPU,
            train_epoch=train_epoch,
            validate=lambda *_: (losses[1], 0.5),
        )
    assert epochs == [0] and not list(paths.checkpoints().glob("*.pt"))


def test_a_checkpoint_of_odd_content_changes_nothing(synthetic, capsys):
    dataset, p = Dataset("full", 56), P | {"EPOCHS": 2}
    with pytest.raises(KeyboardInterrupt):
        training.train(p, dataset, "pytorch", device=CPU, train_epoch=interrupted_at(1))
    path = paths.checkpoints() / "pytorch.pt"
    content, saved = path.read_bytes(), torch.load(path, weights_only=True)
    state = training.start(p, dataset.train, CPU)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 64  # one number, which torch.load alone would not notice
    odd = [flipped, content[:-100], b"", b"\x80\x04]", [1], saved | {"state": {}}]
    for part in ("history", "best_epoch", "best"):
        odd += [saved | {"progress": saved["progress"] | {part: value}} for value in ([], {}, 7)]
    odd.append(saved | {"state": saved["state"] | {"optimizer": {}}})  # once the network is loaded
    for one in odd:
        if isinstance(one, (bytes, bytearray)):
            path.write_bytes(one)
        else:
            torch.save(one, path)
        capsys.readouterr()
        assert training._load(path, saved["key"], state, CPU) is None
        assert "cannot be read" in capsys.readouterr().out
        for name, value in state.model.state_dict().items():
            assert torch.equal(value, before[name])
    path.write_bytes(content)
    assert training._load(path, saved["key"], state, CPU).epochs_done == 1


def test_a_finished_run_is_taken_from_its_record(synthetic, capsys):
    dataset = Dataset("full", P["IMAGE_SIZE"])
    run = training.train(P, dataset, "mine", device=CPU)
    metrics = {"val": {"accuracy": {"value": 0.5}}}
    training.save("mine", run, P, dataset, metrics)

    taken = training.train(P, dataset, "mine", device=CPU, resume="finished")
    assert "On record as mine" in capsys.readouterr().out
    assert taken.model is None and taken.record["metrics"] == metrics
    assert taken.history == run.history and taken.best_epoch == run.best_epoch
    assert training._on_record("mine", P | {"PRECISION": "bfloat16"}, dataset)
    for different in (P | {"SEED": 1}, P | {"EPOCHS": 1}):
        assert training._on_record("mine", different, dataset) is None
    assert training._on_record("none", P, dataset) is None


# --- its record -----------------------------------------------------------------------------------


def test_a_record_without_a_keras_model(synthetic, tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    records.save_record(
        "other",
        file,
        parameters=7,
        data={},
        hyperparameters={"SPLIT": "full"},
        history={"loss": [1.0, 0.5]},
        best_epoch=2,
        metrics={"val": {}},
        seconds=1.23,
        device="Some GPU",
        library="PyTorch",
    )
    record = records.read("other")
    assert (
        record["parameters"] == 7
        and record["epochs"] == 2
        and record["backend"] == "PyTorch"
        and record["seconds"] == 1.2
    )
    assert record["device"].startswith("Some GPU (") and record["model_sha256"] == files.sha256(
        file
    )


# --- the notebook ---------------------------------------------------------------------------------


def test_the_notebook_has_the_hyperparameters_of_the_recipe():
    """The values in its parameters cell, as they are written there."""
    cell = next(
        cell
        for cell in nbformat.read(NOTEBOOK, 4).cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    found = {node.targets[0].id: node.value for node in ast.parse(cell.source).body}
    for name, expected in fit.TWO_CONV.items():
        if name == "AUGMENTATION":
            assert expected == dict(flip=True, shift=1 / 16)
            assert ast.unparse(found[name]) == "dict(flip=True, shift=1 / 16)"
        elif name != "NETWORK":  # which this notebook is about
            assert ast.literal_eval(found[name]) == expected, name


#: Run in the kernel after the last cell of notebook 07, which defines the names without a module.
SAME_AS_THE_PACKAGE = """
import itertools
from catsdogs.networks import pytorch as networks
from catsdogs.training import pytorch as training

assert TwoConv is not networks.TwoConv and train_epoch is not training.train_epoch
assert BATCH_NORM == networks.BATCH_NORM
for sizes in itertools.product(range(20, 40), range(1, 8), range(1, 4)):
    assert same_padding(*sizes) == networks.same_padding(*sizes), sizes


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].shape == theirs[key].shape, key
        assert torch.equal(ours[key], theirs[key]), key


assert set(fit.TWO_CONV) <= set(hyperparameters)
changed = hyperparameters | dict(IMAGE_SIZE=75, KERNEL_SIZES=[6, 3], STRIDES=1, POOL_SIZES=[2, 4])
for p in (hyperparameters, changed, keras_record["hyperparameters"]):
    models = []
    for network in (TwoConv, networks.TwoConv):
        torch.manual_seed(5)
        models.append(build(p, network))
    ours, theirs = models
    assert str(ours) == str(theirs)
    assert_equal(ours.state_dict(), theirs.state_dict())
    images = 255 * torch.rand(6, 3, p["IMAGE_SIZE"], p["IMAGE_SIZE"])
    for training_mode in (False, True):
        outputs = []
        for model in models:
            model.train(training_mode)
            torch.manual_seed(6)
            outputs.append(model(images))
        assert outputs[0].shape == (6,) and torch.equal(*outputs)
    assert_equal(ours.state_dict(), theirs.state_dict())

for steps, warmup in ((7, 0.1), (60, 0.1), (705, 0.1), (60, 0.0), (60, 0.5)):
    for step in range(steps + 1):
        expected = training.learning_rate_factor(step, steps, warmup)
        assert learning_rate_factor(step, steps, warmup) == expected, (step, steps, warmup)

for p in (hyperparameters, hyperparameters | dict(WHITEN=False, PRECISION="bfloat16")):
    ours = start(p, dataset.train, device)
    theirs = training.start(p, dataset.train, device)
    for epoch in range(2):
        trained = train_epoch(ours, dataset.train, p, epoch)
        assert trained == training.train_epoch(theirs, dataset.train, p, epoch)
        validated = validate(ours, dataset.val, p)
        assert validated == training.validate(theirs, dataset.val, p)
        for name, part in vars(ours).items():
            assert str(part.state_dict()) == str(vars(theirs)[name].state_dict()), name
        assert_equal(ours.model.state_dict(), theirs.model.state_dict())
        assert_equal(ours.ema.state_dict(), theirs.ema.state_dict())
print("the notebook and the package are the same")
"""


def test_what_the_notebook_writes_out_is_what_the_package_has(synthetic, tmp_path):
    """A copy of the notebook, run with small parameters, with one cell appended that compares."""
    dataset = Dataset("full", 56)
    keras_run = fit.train(P | {"EPOCHS": 1}, dataset)
    metrics = {
        subset: evaluate(photos.labels, keras_run.model.predict(photos.images, verbose=0))
        for subset, photos in (("val", dataset.val), ("test", dataset.test))
    }
    fit.save("my-run-synthetic", keras_run, P | {"EPOCHS": 1}, dataset, metrics)

    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(SAME_AS_THE_PACKAGE))
    copy = tmp_path / "copy" / NOTEBOOK.name
    copy.parent.mkdir()
    nbformat.write(notebook, copy)
    small = {name: P[name] for name in ("IMAGE_SIZE", "BATCH_SIZE", "FILTERS", "DENSE_UNITS")}
    notebooks.run(copy, tmp_path, small | {"EPOCHS": 2, "PRECISION": "float32"}, html=False)

    last = nbformat.read(tmp_path / NOTEBOOK.name, 4).cells[-1]
    assert last.outputs[0].text == "the notebook and the package are the same\n"
    record = records.read("my-pytorch-synthetic")
    published = json.loads((SHIPPED / "pytorch" / "record.json").read_text())
    assert record.keys() == published.keys()
    assert record["hyperparameters"].keys() >= published["hyperparameters"].keys()
    assert record["same_as_keras"].keys() == published["same_as_keras"].keys()
    assert record["epochs"] == 2 and record["parameters"] == keras_run.model.count_params()
    assert record["model_sha256"] == files.sha256(
        paths.model_folder("my-pytorch-synthetic") / "model.pt"
    )
