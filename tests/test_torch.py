"""Notebook 07: its network, its photos and its steps are Keras's. What is tested is the code in the notebook itself."""

import ast
import json
import math
from types import SimpleNamespace
from unittest.mock import Mock

import keras
import nbformat
import numpy as np
import pytest

from catsdogs import files, paths
from catsdogs.data import dataset
from catsdogs.data.dataset import Dataset
from catsdogs.networks import augment, whitening
from catsdogs.training import records

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

SHIPPED = paths.PROJECT / "models"
P = dict(
    SPLIT="full",
    IMAGE_SIZE=56,
    BATCH_SIZE=16,
    EPOCHS=3,
    LEARNING_RATE=1e-3,
    FILTERS=[4, 8],
    KERNEL_SIZES=[5, 5],
    POOL_SIZES=[4, 3],
    DENSE_UNITS=8,
    DROPOUT=0.4,
    EMA_DECAY=0.9,
    WHITEN=True,
    SHIFT=1 / 16,
    SEED=0,
    PRECISION="float32",
)


def notebook(name):
    """What the cells of a notebook define: its imports, parameters, functions and classes; nothing of it is run."""
    space = {}
    for cell in nbformat.read(paths.PROJECT / "notebooks" / name, 4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            if "parameters" not in cell.metadata.get("tags", []):
                kept = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef
                tree.body = [node for node in tree.body if isinstance(node, kept)]
            exec(compile(tree, name, "exec"), space)
    return space


@pytest.fixture
def seventh():
    space = notebook("07_the_same_in_pytorch.ipynb")
    space["device"] = torch.device("cpu")
    return SimpleNamespace(
        space=space, **{name: value for name, value in space.items() if not name.startswith("__")}
    )


@pytest.fixture(scope="module")
def build_keras_model():
    return notebook("02_train_the_cnn.ipynb")["build_model"]


def some_photos(count, size):
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.uint8)
    images = rng.integers(0, 200, (count, size, size, 3)) + 50 * labels[:, None, None, None]
    return dataset.Photos(images.astype(np.uint8), labels, [f"{n}.jpg" for n in range(count)])


# --- the same network ------------------------------------------------------------------------------


def test_the_shipped_model_answers_alike_in_both(seventh, synthetic):
    keras_model = keras.saving.load_model(SHIPPED / "cats_vs_dogs.keras", compile=False)
    record = json.loads((SHIPPED / "cats_vs_dogs.json").read_text())
    model = seventh.keras_to_torch(
        keras_model, seventh.TwoConvolutions(SimpleNamespace(**record["hyperparameters"]))
    )
    assert seventh.count_parameters(model) == keras_model.count_params() == record["parameters"]
    train = Dataset("full", 128).train
    noise = np.random.default_rng(0).integers(0, 256, (20, 128, 128, 3), dtype=np.uint8)
    for images in (train.images[:40], noise):
        expected = keras_model.predict(images, verbose=0)[:, 0]
        found = seventh.predict(model, images).sigmoid().numpy()
        assert expected.std() > 0.01 and abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"IMAGE_SIZE": 61},
        {"KERNEL_SIZES": [4, 3]},
        {"KERNEL_SIZES": [1, 2], "POOL_SIZES": [3, 2]},
        {"IMAGE_SIZE": 75, "KERNEL_SIZES": [6, 5], "POOL_SIZES": [2, 4]},
    ],
)
def test_other_sizes_are_alike_too(seventh, build_keras_model, sizes):
    """An odd number of pixels and kernels of other sizes are padded otherwise; all weights are other than at the beginning."""
    p = SimpleNamespace(**P | sizes)
    keras_model, rng = build_keras_model(p), np.random.default_rng(0)
    keras_model.set_weights(
        [
            rng.uniform(0.2, 1, w.shape) if w.ndim == 1 else rng.normal(0, 0.3, w.shape)
            for w in keras_model.get_weights()
        ]
    )
    model = seventh.keras_to_torch(keras_model, seventh.TwoConvolutions(p))
    assert seventh.count_parameters(model) == keras_model.count_params()
    images = some_photos(12, p.IMAGE_SIZE).images
    expected = keras_model.predict(images, verbose=0)[:, 0]
    assert expected.std() > 1e-3
    np.testing.assert_allclose(
        seventh.predict(model, images).sigmoid().numpy(), expected, atol=1e-4
    )


def test_the_first_weights_are_drawn_as_keras_draws_them(seventh, build_keras_model):
    p = SimpleNamespace(**P | {"FILTERS": [16, 32], "IMAGE_SIZE": 128, "DENSE_UNITS": 64})
    theirs = [w for w in build_keras_model(p).get_weights() if w.ndim > 1]
    model = seventh.TwoConvolutions(p)
    ours = [layer.weight for layer in (model.conv1, model.conv2, model.dense, model.answer)]
    for our, their in zip(ours, theirs, strict=True):
        assert our.numel() == their.size and float(our.detach().std()) == pytest.approx(
            their.std(), rel=0.2
        )


def test_it_begins_with_the_same_first_filters(seventh):
    photos = some_photos(40, 56)
    seventh.space["train"] = photos
    convolution = keras.layers.Conv2D(4, 5, use_bias=False)
    convolution.build((None, 56, 56, 3))
    whitening.whiten(convolution, photos.images)
    run = seventh.start(SimpleNamespace(**P), 3)
    found = run.model.conv1.weight.detach().permute(2, 3, 1, 0).numpy()
    assert np.array_equal(found, keras.ops.convert_to_numpy(convolution.kernel))


# --- the same photos -------------------------------------------------------------------------------


def test_views_are_those_of_the_keras_layer_and_as_frequent(seventh):
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    count = 3000
    theirs = augment.RandomAugmentation(shift=1 / 16, seed=0)(
        image.repeat(count, 0).astype("float32"), training=True
    )
    theirs = keras.ops.convert_to_numpy(theirs).round().astype(np.uint8)
    torch.manual_seed(0)
    ours = seventh.random_view(torch.from_numpy(image.repeat(count, 0)), 1 / 16)
    assert ours.dtype == torch.uint8 and ours.shape == (count, 16, 16, 3)
    (views, shares), (expected, expected_shares) = (
        np.unique(found.reshape(count, -1), axis=0, return_counts=True)
        for found in (ours.numpy(), theirs)
    )
    assert len(views) == 18 and np.array_equal(
        views, expected
    )  # 3 places across, 3 down, mirrored or not
    assert abs(shares - expected_shares).max() / count < 0.03


def test_each_photo_of_a_batch_has_a_view_of_its_own(seventh):
    images = torch.from_numpy(some_photos(32, 64).images)
    torch.manual_seed(0)
    views = seventh.random_view(images, 1 / 16)
    inner = slice(8, 56)
    found = set()
    for image, view in zip(images, views):
        matches = [
            (down, right, mirrored)
            for down in range(-4, 5)
            for right in range(-4, 5)
            for mirrored in (False, True)
            if torch.equal(
                (view.flip(1) if mirrored else view)[inner, inner],
                image[8 + down : 56 + down, 8 + right : 56 + right],
            )
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 16


# --- the same steps --------------------------------------------------------------------------------


def test_the_learning_rate_is_that_of_keras(seventh):
    for steps in (7, 60, 705):
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=steps - steps // 10, warmup_target=3e-3, warmup_steps=steps // 10
        )
        ours = [3e-3 * seventh.share_of_learning_rate(step, steps) for step in range(steps + 1)]
        np.testing.assert_allclose(
            ours, [float(schedule(step)) for step in range(steps + 1)], atol=1e-8
        )


def test_steps_change_weights_and_their_average_as_in_keras(seventh, build_keras_model):
    """From the same weights, on the same photos in the same order: gradients, AdamW, batch statistics, the average."""
    p = SimpleNamespace(**P | {"DROPOUT": 0.0, "WHITEN": False, "EPOCHS": 2})
    photos = some_photos(64, 56)
    seventh.space |= {"train": photos, "random_view": lambda images, shift: images}
    keras.utils.set_random_seed(0)
    keras_model = build_keras_model(p)
    run = seventh.start(p, 4)
    seventh.keras_to_torch(keras_model, run.model)
    keras_model.compile(
        loss="binary_crossentropy",
        optimizer=keras.optimizers.AdamW(
            p.LEARNING_RATE, weight_decay=0.5, use_ema=True, ema_momentum=0.75
        ),
    )
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {1e-4}
    for group in run.optimizer.param_groups:
        group |= {
            "lr": p.LEARNING_RATE,
            "weight_decay": 0.5,
        }  # enough of it to see which weights decay, and how
    run.schedule = Mock()  # the rate stays
    loss, _ = seventh.train_epoch(run, p, 0)

    torch.manual_seed(0)
    losses = [
        keras_model.train_on_batch(
            photos.images[chosen], photos.labels[chosen, None].astype("float32")
        )
        for chosen in torch.randperm(64).numpy().reshape(4, 16)
    ]
    assert loss == pytest.approx(np.mean(losses), abs=1e-4)
    expected = seventh.keras_to_torch(keras_model, seventh.TwoConvolutions(p)).state_dict()
    assert_alike(run.model.state_dict(), expected)
    averages = keras_model.optimizer._model_variables_moving_average
    for variable, average in zip(keras_model.trainable_variables, averages, strict=True):
        variable.assign(average)
    expected = seventh.keras_to_torch(keras_model, seventh.TwoConvolutions(p)).state_dict()
    assert_alike(run.average.module.state_dict(), expected)


def assert_alike(found, expected):
    for name, value in found.items():
        if "num_batches" in name:
            continue
        # PyTorch keeps the variance as estimated from the batch, Keras that of the batch itself: with 16 numbers, 15/16 of it.
        tolerance = 1e-2 if name in ("norm2.running_var", "norm3.running_var") else 2e-4
        assert abs(value - expected[name]).max() <= tolerance * max(
            1, float(abs(expected[name]).max())
        ), name


def test_the_average_of_the_first_step_is_the_weights_and_then_remembers(seventh):
    photos = some_photos(48, 56)
    seventh.space["train"] = photos
    p = SimpleNamespace(**P)
    run = seventh.start(p, math.ceil(48 / p.BATCH_SIZE))
    steps, update = [], run.average.update_parameters
    run.average.update_parameters = lambda model: (
        steps.append([w.detach().clone() for w in model.parameters()]),
        update(model),
    )
    seventh.train_epoch(run, p, 0)
    seventh.train_epoch(run, p, 1)
    momentum = 1 - 1 / 3  # below EMA_DECAY, as an epoch has three steps only
    expected = steps[0]
    for weights in steps[1:]:
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, weights)]
    for average, value in zip(run.average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(average.detach(), value, atol=1e-5, rtol=1e-4)
    for average, value in zip(run.average.module.buffers(), run.model.buffers(), strict=True):
        assert torch.equal(average, value)


def test_a_run_that_was_cut_short_goes_on_as_if_it_had_not_been(seventh, synthetic):
    opened = Dataset("full", 56)
    train, val = opened.train, opened.val
    seventh.space |= {"dataset": opened, "train": train, "val": val, "display": Mock()}
    whole, facts = seventh.train_model(P)
    train_epoch = seventh.space["train_epoch"]

    def cut_short(run, p, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(run, p, epoch)

    seventh.space["train_epoch"] = cut_short
    with pytest.raises(KeyboardInterrupt):
        seventh.train_model(P)
    seventh.space["train_epoch"] = train_epoch
    resumed, facts_resumed = seventh.train_model(P)
    assert facts_resumed["history"] == facts["history"] and len(facts["history"]["loss"]) == 3
    assert (
        facts["best_epoch"]
        == facts_resumed["best_epoch"]
        == int(np.argmin(facts["history"]["val_loss"])) + 1
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert not list((paths.models() / "checkpoints").iterdir())


# --- its record ------------------------------------------------------------------------------------


def test_a_record_without_a_keras_model(synthetic, tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    paths.models().mkdir()
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
