"""Shuffled batches for `model.fit`: a new order in every epoch, the same on every backend."""

import math

import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

from catsdogs.backend import keras
from catsdogs.data.dataset import Photos


class Batches(keras.utils.PyDataset):
    """Endless shuffled batches of `photos` for `model.fit`, in epochs of ``steps`` batches.

    The order depends on `seed` and the number of the epoch alone, on every backend. That is what
    lets an interrupted run resume exactly. (`model.fit(x, y)` cannot: it takes its order from a
    generator that no checkpoint saves. And once a seed is set, Keras 3.15 on TensorFlow repeats
    the first epoch's order in every epoch.)

    A batch is images, (batch, height, width, 3), and labels, (batch, 1), or `targets`, (photos,),
    in their place: soft labels, the probability of the second class that is to be learned. With
    `class_weight` ``"balanced"`` it has weights, (batch,), too, by which the loss of each image is
    multiplied: as much larger for the rarer class as it is rarer, and 1 on average.

    Raises `ValueError` for a batch size below 1, and for targets that are not as many as photos.
    """

    def __init__(
        self,
        photos: Photos,
        batch_size: int = 64,
        seed: int = 0,
        *,
        class_weight: str | None = None,
        targets: np.ndarray | None = None,
    ):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: expected 1 or more")
        if targets is not None and len(targets) != len(photos):
            raise ValueError(f"{len(targets):,} targets: expected {len(photos):,}, one per photo")
        self.targets = photos.labels if targets is None else np.asarray(targets, np.float32)
        self.photos, self.batch_size, self.seed = photos, int(batch_size), seed
        self._weights = None
        if class_weight:
            self._weights = compute_sample_weight(class_weight, photos.labels).astype(np.float32)
        #: Batches per epoch, for `model.fit`'s ``steps_per_epoch``.
        self.steps = math.ceil(len(photos) / self.batch_size)
        #: The epoch, counted from 0, that batch 0 belongs to.
        self.first_epoch = 0
        self._epoch = -1  # none yet

    # Without a length, Keras keeps counting batches through the epochs. With one, it fetches the
    # first batches of an epoch before it reports the end of the last, in the old order.
    num_batches = None

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        epoch, step = divmod(index, self.steps)
        epoch += self.first_epoch
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))
            self._epoch = epoch
        chosen = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        images = self.photos.images[chosen]
        if images.dtype == np.float16:  # compact in memory, but few processors compute in it
            images = images.astype(np.float32)
        labels = self.targets[chosen, None]
        return (
            (images, labels) if self._weights is None else (images, labels, self._weights[chosen])
        )
