"""The order of images: batches for `model.fit`, shuffled anew in every epoch and the same on every backend."""

import math

import numpy as np

from catsdogs.backend import keras
from catsdogs.data.dataset import Photos


class Batches(keras.utils.PyDataset):
    """`photos` in batches for `model.fit`, without end, in a new order every epoch of ``steps`` batches.

    The order depends on `seed` and the epoch alone, on every backend, which is what lets a run that was
    killed go on as if it had not been. (`model.fit(x, y)` cannot: it draws its order from a generator
    that no checkpoint holds. And once a seed is set, Keras 3.15 on TensorFlow repeats the first epoch's
    order in every epoch.)
    """

    def __init__(self, photos: Photos, batch_size: int = 64, seed: int = 0):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: expected 1 or more")
        self.photos, self.batch_size, self.seed = photos, int(batch_size), seed
        #: How many batches an epoch has; for `model.fit`'s ``steps_per_epoch``.
        self.steps = math.ceil(len(photos) / self.batch_size)
        #: The epoch, counted from 0, that begins with batch 0.
        self.first_epoch = 0
        self._epoch = None

    # No length makes Keras count on through the epochs. With one, it begins to read an epoch's first
    # batches before it says that the last epoch has ended, so that some would come in the old order.
    num_batches = None

    def __getitem__(self, index):
        epoch, step = divmod(index, self.steps)
        epoch += self.first_epoch
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))
            self._epoch = epoch
        chosen = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        images = self.photos.images[chosen]
        if (
            images.dtype == np.float16
        ):  # which keeps large arrays small, but few processors compute in it
            images = images.astype(np.float32)
        return images, self.photos.labels[chosen, None]
