"""Transfer learning: a head trained on a frozen backbone's features, and fine-tuning of both.

The recipe of fine-tuning is that of `catsdogs.training.fit`: AdamW, a warm-up, a cosine decay.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.backend import keras
from catsdogs.data.dataset import Dataset, Photos
from catsdogs.networks.features import Features
from catsdogs.training.checkpoint import Checkpoint, run_key
from catsdogs.training.control import StoppedError
from catsdogs.training.fit import fit


def logistic_regression(train: Features, c: float) -> Pipeline:
    """Standardize the features of the training set and fit a logistic regression to them.

    `c` is scikit-learn's ``C``, the inverse of the strength of the L2 regularization: the smaller,
    the closer the weights are kept to 0.
    """
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000))
    return pipeline.fit(train.values, train.labels)


def dense_head(pipeline: Pipeline) -> keras.Model:
    """A Keras layer that predicts what a pipeline of `logistic_regression` predicts.

    It takes features, (photos, features), and returns the probability of the second class,
    (photos, 1). Standardization, (x - mean) / scale, is linear, so the weights absorb it.
    """
    scaler, regression = (step for _, step in pipeline.steps)
    kernel = regression.coef_[0] / scaler.scale_
    bias = regression.intercept_[0] - scaler.mean_ @ kernel
    dense = keras.layers.Dense(1, activation="sigmoid", name="dog")
    model = keras.Sequential([keras.Input((len(kernel),), name="features"), dense], name="head")
    dense.set_weights([kernel[:, None], np.array([bias])])
    return model


def freeze_batch_normalization(model: keras.Model) -> None:
    """Keep the batch normalization of `model` as it was pretrained; all other layers are trained.

    Its statistics come from ImageNet's 1.3 million images; batches of ours would replace them with
    noisier ones. A frozen batch normalization layer of Keras also runs in inference mode.
    """
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)


def fine_tune(
    upper: keras.Model,
    head: keras.Model,
    train: Features,
    val: Features,
    hyperparameters: dict,
    dataset: Dataset,
    *,
    resume: bool = True,
) -> tuple[keras.Model, Checkpoint]:
    """Train `upper`, the last blocks of a backbone, and `head` together on feature maps.

    `upper` is the second part of `catsdogs.networks.pretrained.split` and `head` a `dense_head` on
    its features, which are trained in place. `train` and `val` are the feature maps of the frozen
    blocks below (see `catsdogs.networks.features.load_maps`) for the photos of `dataset`.
    `hyperparameters` are those of `catsdogs.training.fit.fit`, and ``DROPOUT`` before the head.

    Returns the model, from feature maps to the probability of "dog", (photos, 1), with the weights
    of its best epoch, and its checkpoint, which has ``history``, ``best_epoch`` and ``seconds``.

    Raises `catsdogs.training.control.StoppedError` after an interruption.
    """
    p = hyperparameters
    keras.utils.set_random_seed(p["SEED"])
    dropout = keras.layers.Dropout(p["DROPOUT"])
    model = keras.Sequential([keras.Input(train.values.shape[1:]), upper, dropout, head])
    # Batches converts float16 itself; the validation set is small enough to be converted whole.
    maps = Photos(train.values, train.labels, train.names)
    val_maps = Photos(val.values.astype(np.float32), val.labels, val.names)
    key = run_key(model, p, dataset.describe())
    checkpoint = fit(model, maps, val_maps, p, key, resume=resume)
    if checkpoint.interrupted:
        raise StoppedError("Run this cell again to resume; nothing has been saved yet.")
    return model, checkpoint


def predict(model: keras.Model, values: np.ndarray) -> np.ndarray:
    """The probability of "dog", (photos,), by a `dense_head` or the model of `fine_tune`.

    `values` are features, (photos, features), or feature maps, of any floating-point type.
    """
    return model.predict(values.astype(np.float32, copy=False), batch_size=256, verbose=0)[:, 0]
