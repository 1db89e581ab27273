"""Transfer learning: the head in Keras predicts what scikit-learn's does; fine-tuning trains only
what is not frozen."""

import numpy as np
import pytest

from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset
from catsdogs.networks import features
from catsdogs.training import transfer

HYPERPARAMETERS = dict(
    EPOCHS=2,
    BATCH_SIZE=16,
    LEARNING_RATE=1e-3,
    WARMUP=0.1,
    WEIGHT_DECAY=1e-4,
    DROPOUT=0.2,
    SEED=0,
    PRECISION="float32",
)


def some_features(count=200, width=8):
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (count, width)).astype(np.float32)
    labels = (values @ rng.normal(size=width) > 0).astype(np.uint8)
    return features.Features(values, labels, [str(number) for number in range(count)])


def test_the_keras_head_predicts_what_the_regression_does():
    train = some_features()
    pipeline = transfer.logistic_regression(train, 0.1)
    head = transfer.dense_head(pipeline)
    expected = pipeline.predict_proba(train.values)[:, 1]
    np.testing.assert_allclose(head.predict_on_batch(train.values)[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(transfer.predict(head, train.values), expected, atol=1e-5)
    assert head.count_params() == 9


def test_c_is_the_inverse_of_the_regularization_strength():
    weak, strong = (transfer.logistic_regression(some_features(), c)[-1] for c in (10, 0.001))
    assert abs(strong.coef_).sum() < abs(weak.coef_).sum()


@pytest.fixture
def tuning(synthetic):
    """What `fine_tune` needs: the upper part of a tiny backbone, its head, feature maps, a dataset.

    The mean of the feature maps tells the two classes apart.
    """
    dataset = Dataset("full", progress=False)

    def maps(count, seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, count).astype(np.uint8)
        values = rng.normal(labels[:, None, None, None], 1, (count, 4, 4, 3)).astype(np.float16)
        return features.Features(values, labels, [str(number) for number in range(count)])

    def run(**changes):
        keras.utils.set_random_seed(7)  # pretrained: the same in every run
        upper = keras.Sequential(
            [
                keras.Input((4, 4, 3)),
                keras.layers.Conv2D(8, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(6.0),
                keras.layers.GlobalAveragePooling2D(),
            ]
        )
        train, val = maps(96, 0), maps(32, 1)
        values = upper.predict(train.values.astype(np.float32), verbose=0)
        own = features.Features(values, train.labels, train.names)
        head = transfer.dense_head(transfer.logistic_regression(own, 0.01))
        transfer.freeze_batch_normalization(upper)
        return upper, head, train, val, HYPERPARAMETERS | changes, dataset

    return run


def test_at_the_start_it_predicts_what_the_head_does_and_a_rate_of_0_changes_nothing(tuning):
    upper, head, train, *rest = tuning(LEARNING_RATE=0.0, EPOCHS=1)
    expected = head.predict(upper.predict(train.values.astype(np.float32), verbose=0), verbose=0)
    model, _ = transfer.fine_tune(upper, head, train, *rest)
    np.testing.assert_allclose(transfer.predict(model, train.values), expected[:, 0], atol=1e-5)


def test_batch_normalization_stays_frozen_and_the_rest_learns(tuning):
    upper, head, train, *rest = tuning()
    norms = [one for one in upper.layers if isinstance(one, keras.layers.BatchNormalization)]
    others = [one for one in upper.layers if one.weights and one not in norms]
    assert norms and others

    def copies(layers):
        return [[value.copy() for value in layer.get_weights()] for layer in layers]

    before, before_others = copies(norms), copies(others)
    model, checkpoint = transfer.fine_tune(upper, head, train, *rest)
    for old, new in zip(before, copies(norms)):
        assert all(np.array_equal(*pair) for pair in zip(old, new))
    for old, new in zip(before_others, copies(others)):
        assert not any(np.array_equal(*pair) for pair in zip(old, new))
    loss = checkpoint.history["loss"]
    assert len(loss) == 2 and loss[1] < loss[0] and checkpoint.best_epoch in (1, 2)
    assert model.input_shape[1:] == train.values.shape[1:] and model.output_shape == (None, 1)


def test_the_same_seed_trains_the_same_weights(tuning):
    trained = [transfer.fine_tune(*tuning(SEED=seed, EPOCHS=1))[0] for seed in (3, 3, 4)]
    first, again, different = (
        np.concatenate([value.ravel() for value in model.get_weights()]) for model in trained
    )
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert abs(first - different).max() > 1e-5
