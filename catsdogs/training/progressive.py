"""Progressive resizing: random crops are small in the first epochs, and grow."""

from catsdogs.backend import keras
from catsdogs.networks.augment import RandomAugmentation

#: Sizes are multiples of this, in pixels: most networks halve them four or five times.
STEP = 16
#: The share of the epochs after which crops have their full size.
GROWING = 0.8


class ProgressiveResizing(keras.callbacks.Callback):
    """Lets the crops of a model's `RandomAugmentation` grow from `first` pixels per side.

    A step on small images takes a fraction of the time, and the first epochs learn what is large
    anyway (Howard, 2018, in DAWNBench; Tan and Le, 2021, "EfficientNetV2: Smaller Models and Faster
    Training"). The last epochs see crops of the layer's own size. Each new size is traced once.
    """

    def __init__(self, first: int):
        super().__init__()
        self.first = first

    def on_train_begin(self, logs=None):
        layers = [one for one in self.model.layers if isinstance(one, RandomAugmentation)]
        if len(layers) != 1:
            raise ValueError(f"{len(layers)} augmentation layers: expected one, whose crops grow")
        self.layer = layers[0]
        self.last = self.layer.size or self.model.input_shape[1]

    def on_epoch_begin(self, epoch, logs=None):
        size = crop_size(epoch, self.params["epochs"], self.first, self.last)
        if size != (self.layer.size or self.last):
            self.layer.size = size
            self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        self.layer.size = self.last
        self.model.make_train_function(force=True)


def share_of_time(epochs: int, first: int, last: int) -> float:
    """The time that `epochs` of growing crops take, as a share of that with crops of `last` pixels.

    A step takes time in proportion to the pixels.
    """
    sizes = [crop_size(epoch, epochs, first, last) for epoch in range(epochs)]
    return sum((size / last) ** 2 for size in sizes) / epochs


def crop_size(epoch: int, epochs: int, first: int, last: int) -> int:
    """Pixels per side of the crops in `epoch`, counted from 0, of `epochs`: linear, then `last`."""
    share = epoch / (GROWING * epochs)
    if share >= 1 or first >= last:
        return last
    return min(last, round((first + (last - first) * share) / STEP) * STEP)
