"""Parts of the training recipe: biases, soft labels, progressive resizing, stochastic depth."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from catsdogs import backend
from catsdogs.backend import keras
from catsdogs.data.dataset import Photos
from catsdogs.networks import augment, cnn
from catsdogs.training import fit, progressive, soft_labels
from catsdogs.training.batches import Batches
from catsdogs.training.hyperparameters import HyperparameterError, validate
from catsdogs.training.optimizers import AdamW, is_normalization_bias

RNG = np.random.default_rng(0)
PHOTOS = Photos(
    RNG.integers(0, 256, (48, 64, 64, 3), np.uint8),
    np.arange(48, dtype=np.uint8) % 2,
    [f"{number}.jpg" for number in range(48)],
)
RESIDUAL = fit.RESIDUAL | dict(
    SPLIT="full",
    SEED=0,
    PRECISION="float32",
    IMAGE_SIZE=64,
    CROP_SIZE=48,
    STEM_FILTERS=4,
    FILTERS=(4, 8),
    BLOCKS=(1, 2),
    BATCH_SIZE=16,
    EPOCHS=5,
)


def small_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def trained(optimizer, steps=1):
    model = small_network()
    before = [keras.ops.convert_to_numpy(one).copy() for one in model.trainable_variables]
    model.compile(optimizer, "binary_crossentropy", jit_compile=backend.jit_compile())
    y = np.arange(16).reshape(16, 1) % 2
    x = np.random.default_rng(1).normal(size=(16, 8, 8, 3))
    for _ in range(steps):
        model.train_on_batch(x, y)
    after = [keras.ops.convert_to_numpy(one) for one in model.trainable_variables]
    names = [variable.path.split("/")[-1] for variable in model.trainable_variables]
    return [(name, new - old) for name, new, old in zip(names, after, before)]


def test_biases_of_batch_normalization_move_so_many_times_as_far_and_nothing_else_does():
    plain = trained(keras.optimizers.AdamW(1e-3, weight_decay=0.01))
    same = trained(AdamW(1e-3, weight_decay=0.01))
    fast = trained(AdamW(1e-3, weight_decay=0.01, bias_multiplier=16))
    assert [name for name, _ in plain] == ["kernel", "gamma", "beta", "kernel", "bias"]
    for (name, moved), (_, ours), (_, faster) in zip(plain, same, fast):
        np.testing.assert_allclose(ours, moved, rtol=1e-4, atol=1e-8)
        factor = 16 if name == "beta" else 1
        np.testing.assert_allclose(faster, factor * moved, rtol=1e-3, atol=1e-7)


def test_a_bias_of_a_dense_layer_is_none_of_batch_normalization():
    names = [v.path for v in small_network().trainable_variables if is_normalization_bias(v)]
    assert len(names) == 1 and "batch_normalization" in names[0]


def test_the_multiplier_is_saved_and_the_recipe_uses_it():
    optimizer = fit.optimizer(fit.TWO_CONV | {"BIAS_MULTIPLIER": 16}, 10)
    assert AdamW.from_config(optimizer.get_config()).bias_multiplier == 16
    plain = fit.optimizer({**fit.TWO_CONV, "BIAS_MULTIPLIER": 1}, 10)
    assert type(plain) is type(keras.optimizers.AdamW())


def test_batches_serve_soft_labels_in_the_order_of_the_photos():
    targets = np.linspace(0, 1, 48)
    batches = Batches(PHOTOS, 10, targets=targets)
    for index in range(batches.steps):
        images, labels = batches[index]
        assert labels.shape == (len(images), 1) and labels.dtype == np.float32
        for image, label in zip(images, labels[:, 0]):
            (at,) = np.flatnonzero((PHOTOS.images == image).all(axis=(1, 2, 3)))
            assert label == np.float32(targets[at])
    with pytest.raises(ValueError, match="3 targets: expected 48"):
        Batches(PHOTOS, 10, targets=targets[:3])


def test_accuracy_on_soft_labels_is_that_on_the_labels():
    labels, predictions = np.array([[0], [1], [1], [0]]), np.array([[0.2], [0.6], [0.4], [0.9]])
    metric = soft_labels.Accuracy()
    metric.update_state(0.9 * labels + 0.05, predictions)
    assert float(metric.result()) == 0.5 and metric.name == "accuracy"


class Opened:
    """A data set with a training set, as `soft_labels.mixed` needs one."""

    train = PHOTOS


def test_label_smoothing_draws_targets_towards_a_half():
    targets = soft_labels.mixed(Opened(), smoothing=0.1)
    np.testing.assert_allclose(targets, np.where(PHOTOS.labels, 0.95, 0.05), rtol=1e-6)
    assert targets.dtype == np.float32


def test_distillation_mixes_labels_with_the_teachers_predictions(monkeypatch):
    teacher = np.linspace(0.1, 0.9, 48)
    monkeypatch.setattr(soft_labels, "out_of_fold", lambda dataset: teacher)
    np.testing.assert_allclose(
        soft_labels.mixed(Opened(), teacher=0.7), 0.3 * PHOTOS.labels + 0.7 * teacher, rtol=1e-6
    )
    both = soft_labels.mixed(Opened(), smoothing=0.2, teacher=1)
    np.testing.assert_allclose(both, 0.8 * teacher + 0.1, rtol=1e-6)


def test_the_teacher_has_not_seen_the_photos_it_predicts(monkeypatch):
    """On features that say nothing, a teacher that had seen the labels would know them."""
    labels = np.arange(60, dtype=np.uint8) % 2
    names = [f"{number}.jpg" for number in range(60)]
    values = np.random.default_rng(0).normal(size=(60, 200))
    taught = SimpleNamespace(values=values, labels=labels)
    monkeypatch.setattr(
        soft_labels, "FeatureSet", lambda *given, **options: SimpleNamespace(train=taught)
    )
    monkeypatch.setattr(soft_labels, "C", 1000.0)
    rows = pd.DataFrame({"photo": names, "subset": "train", "group": range(60)})
    rows.loc[60] = ["60.jpg", "val", 60]
    opened = SimpleNamespace(rows=rows, progress=False)
    found = soft_labels.out_of_fold(opened)
    assert found.shape == (60,) and 0.2 < np.mean((found > 0.5) == labels) < 0.8
    values[:, :50] += 2.0 * labels[:, None]
    found = soft_labels.out_of_fold(opened)
    assert np.mean((found > 0.5) == labels) > 0.8


def test_crops_grow_to_their_full_size_which_the_last_epochs_have():
    sizes = [progressive.crop_size(epoch, 45, 64, 128) for epoch in range(45)]
    assert 0.55 < progressive.share_of_time(45, 64, 128) < 0.7
    assert progressive.share_of_time(3, 128, 128) == progressive.share_of_time(3, 256, 128) == 1
    assert sizes[0] == 64 and sizes == sorted(sizes) and set(sizes) == {64, 80, 96, 112, 128}
    assert sizes.count(128) >= 9
    assert [progressive.crop_size(epoch, 4, 128, 128) for epoch in range(4)] == [128] * 4
    assert progressive.crop_size(0, 1, 64, 100) == 64
    assert max(progressive.crop_size(epoch, 20, 64, 100) for epoch in range(20)) == 100


def test_training_on_growing_crops_traces_each_size_and_ends_at_the_full_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSDOGS_RUNS", str(tmp_path))
    p = validate(
        RESIDUAL | dict(FIRST_CROP_SIZE=16, CROP_SIZE=32, EPOCHS=3, FILTERS=(4,), BLOCKS=(1,))
    )
    seen, call = [], augment.RandomAugmentation.call

    def watched(layer, images, training=None):
        found = call(layer, images, training=training)
        if training:
            seen.append(found.shape[1])
        return found

    monkeypatch.setattr(augment.RandomAugmentation, "call", watched)
    model, network = fit.training_model(p)
    seen.clear()
    done = fit.fit(model, PHOTOS, PHOTOS, p, "growing", resume=False)
    assert {progressive.crop_size(epoch, 3, 16, 32) for epoch in range(3)} == {16, 32}
    assert {16, 32} <= set(seen)
    assert model.layers[1].size == 32 and len(done.history["val_loss"]) == 3
    assert np.isfinite(done.history["val_loss"]).all()


def test_stochastic_depth_leaves_out_blocks_in_training_only():
    with_it = cnn.build(RESIDUAL | dict(STOCHASTIC_DEPTH=0.5))
    assert not [one for one in cnn.build(RESIDUAL).layers if getattr(one, "noise_shape", None)]
    rates = [layer.rate for layer in with_it.layers if getattr(layer, "noise_shape", None)]
    assert rates == [0.25, 0.5]  # none for the first block
    (last,) = (layer for layer in with_it.layers if getattr(layer, "rate", 0) == 0.5)
    values = keras.ops.convert_to_numpy(last(np.ones((64, 3, 3, 5), "float32"), training=True))
    per_image = values.reshape(64, -1)
    assert (per_image == per_image[:, :1]).all() and {0.0, 2.0} == set(per_image[:, 0])


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu"])
def test_the_two_conv_network_takes_different_activation_functions(name):
    p = validate(fit.TWO_CONV | dict(SPLIT="full", SEED=0, PRECISION="float32", ACTIVATION=name))
    found = [
        layer.activation
        for layer in cnn.build(p).layers
        if isinstance(layer, keras.layers.Activation)
    ]
    assert found == [keras.activations.get(name)] * 3


@pytest.mark.parametrize(
    "changed, sentence",
    [
        (dict(BIAS_MULTIPLIER=0), "BIAS_MULTIPLIER is 0: expected a number above 0"),
        (dict(LABEL_SMOOTHING=1), "LABEL_SMOOTHING is 1: expected"),
        (dict(SOFT_LABELS=1.5), "SOFT_LABELS is 1.5: expected"),
        (dict(ACTIVATION="swish"), "ACTIVATION is 'swish': expected 'relu'"),
        (
            dict(FIRST_CROP_SIZE=96),
            "FIRST_CROP_SIZE is 96 and the crops of the last epochs have 48",
        ),
        (dict(STOCHASTIC_DEPTH=-1), "STOCHASTIC_DEPTH is -1"),
    ],
)
def test_mistakes_are_named(changed, sentence):
    with pytest.raises(HyperparameterError) as raised:
        validate(RESIDUAL | changed)
    assert sentence in str(raised.value)


def test_soft_labels_and_two_softmax_units_exclude_each_other():
    p = fit.TWO_CONV | dict(SPLIT="full", SEED=0, PRECISION="float32", SOFTMAX=True)
    with pytest.raises(HyperparameterError, match="SOFTMAX is True and LABEL_SMOOTHING 0.1"):
        validate(p | dict(LABEL_SMOOTHING=0.1))
    with pytest.raises(HyperparameterError, match="FIRST_CROP_SIZE is 64 and IMAGE_SIZE 128"):
        validate(p | dict(FIRST_CROP_SIZE=64))
