"""The two-conv network of notebook 02 in PyTorch: module, weights, predictions, augmentation.

PyTorch is optional (``pip install -e ".[torch]"``), so only notebook 07 and its tests import this
module.
"""

import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from catsdogs.backend import keras
from catsdogs.networks.whitening import most_filters, whitening_filters

#: Keras's defaults for batch normalization, ``epsilon=0.001, momentum=0.99``, in PyTorch's terms.
BATCH_NORM = dict(eps=1e-3, momentum=0.01)


def same_padding(size: int, kernel_size: int, strides: int) -> tuple[int, int]:
    """Pixels that Keras's ``padding="same"`` adds before and after a side of `size` pixels.

    As many as give an output of ``ceil(size / strides)``. Where that is an odd number, the extra
    pixel comes after.
    """
    total = max((math.ceil(size / strides) - 1) * strides + kernel_size - size, 0)
    return total // 2, total - total // 2


def pooled_side(size: int, pool_size: int, strides: int) -> int:
    """Pixels per side behind max pooling of a side of `size` pixels, without padding."""
    return (size - pool_size) // strides + 1


def glorot_uniform(layer: nn.Module) -> None:
    """Initialize a convolution or a dense layer as Keras does; for `nn.Module.apply`.

    Glorot and Bengio (2010), "Understanding the Difficulty of Training Deep Feedforward Neural
    Networks", equation 16; biases are 0.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class TwoConv(nn.Module):
    """`catsdogs.networks.cnn.two_conv`, layer by layer, with its arguments.

    It takes images (images, 3, image_size, image_size), 0 to 255, and returns logits, (images,):
    their sigmoid is the probability of "dog".
    """

    def __init__(
        self,
        image_size: int = 128,
        filters: Sequence[int] = (64, 192),
        kernel_sizes: Sequence[int] = (5, 5),
        strides: int = 2,
        pool_sizes: Sequence[int] = (4, 3),
        pool_strides: Sequence[int] | None = None,
        dense_units: int = 128,
        dropout: float = 0.3,
    ):
        super().__init__()
        pool_strides = pool_strides or pool_sizes
        side = pooled_side(math.ceil(image_size / strides), pool_sizes[0], pool_strides[0])
        side = pooled_side(side - kernel_sizes[1] + 1, pool_sizes[1], pool_strides[1])
        self.pad = nn.ZeroPad2d(2 * same_padding(image_size, kernel_sizes[0], strides))
        self.conv1 = nn.Conv2d(3, filters[0], kernel_sizes[0], strides, bias=False)
        self.pool1 = nn.MaxPool2d(pool_sizes[0], pool_strides[0])
        self.norm1 = nn.BatchNorm2d(filters[0], **BATCH_NORM)
        self.conv2 = nn.Conv2d(filters[0], filters[1], kernel_sizes[1], bias=False)
        self.pool2 = nn.MaxPool2d(pool_sizes[1], pool_strides[1])
        self.norm2 = nn.BatchNorm2d(filters[1], **BATCH_NORM)
        self.dense = nn.Linear(filters[1] * side**2, dense_units, bias=False)
        self.norm3 = nn.BatchNorm1d(dense_units, **BATCH_NORM)
        self.output = nn.Linear(dense_units, 1)
        self.dropout = nn.Dropout(dropout)
        self.apply(glorot_uniform)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.pad(images / 127.5 - 1))
        x = F.relu(self.norm1(self.pool1(x)))
        x = F.relu(self.norm2(self.pool2(self.conv2(x))))
        x = self.norm3(self.dense(self.dropout(x.flatten(1))))
        return self.output(self.dropout(F.relu(x))).squeeze(1)


def build(hyperparameters: dict, network: Callable[..., nn.Module] = TwoConv) -> nn.Module:
    """The network of `hyperparameters`, built with those it takes; see `cnn.build`.

    `network` makes it of arguments such as ``dense_units``, which is the hyperparameter
    ``DENSE_UNITS``.

    Raises `ValueError` for hyperparameters of a different network.
    """
    if hyperparameters["NETWORK"] != "two_conv" or hyperparameters.get("SOFTMAX"):
        raise ValueError(
            f"NETWORK is {hyperparameters['NETWORK']!r}, SOFTMAX {hyperparameters.get('SOFTMAX')}: "
            "in PyTorch there is 'two_conv' only, with one output"
        )
    taken = inspect.signature(network).parameters
    return network(
        **{key.lower(): value for key, value in hyperparameters.items() if key.lower() in taken}
    )


def count_parameters(model: nn.Module) -> int:
    """How many parameters `model` has, counted as Keras counts them.

    That is with the running mean and variance of batch normalization, and without PyTorch's count
    of its batches.
    """
    return sum(
        value.numel() for name, value in model.state_dict().items() if "num_batches" not in name
    )


@torch.no_grad()
def keras_to_torch(keras_model: keras.Model, model: nn.Module) -> nn.Module:
    """Copy the weights of a Keras `two_conv` network into `model`, a `TwoConv`, and return it.

    Raises `ValueError` where the two are not the same network.
    """
    weights = iter([torch.from_numpy(array) for array in keras_model.get_weights()])

    def copy(target, values):
        if target.shape != values.shape:  # `copy_` would broadcast
            raise ValueError(
                f"a Keras weight of shape {tuple(values.shape)}, in PyTorch's layout, for one of "
                f"{tuple(target.shape)}: build both networks with the same hyperparameters"
            )
        target.copy_(values)

    for name, layer in model.named_children():  # in the order of the Keras layers
        if isinstance(layer, nn.Conv2d):  # (height, width, in, out) to (out, in, height, width)
            copy(layer.weight, next(weights).permute(3, 2, 0, 1))
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for target in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                copy(target, next(weights))
        elif name == "dense":
            # Keras flattens (height, width, channels), PyTorch (channels, height, width).
            kernel, channels = next(weights), model.conv2.out_channels
            side = math.isqrt(len(kernel) // channels)
            kernel = kernel.reshape(side, side, channels, -1)
            copy(layer.weight, kernel.permute(3, 2, 0, 1).flatten(1))
        elif name == "output":
            copy(layer.weight, next(weights).T)
            copy(layer.bias, next(weights))
    if left := len(list(weights)):
        raise ValueError(f"the Keras model has {left} weights that this network does not have")
    return model


@torch.no_grad()
def whiten(convolution: nn.Conv2d, images: np.ndarray) -> None:
    """PCA-whitening initialization of a first `convolution`; see `catsdogs.networks.whitening`."""
    count = most_filters(convolution.out_channels, convolution.weight[0].numel())
    if count:
        filters = whitening_filters(images, convolution.kernel_size, count)
        convolution.weight[:count] = torch.from_numpy(filters).permute(3, 2, 0, 1)


def device_of(model: nn.Module) -> torch.device:
    """The device that the weights of `model` are on."""
    return next(model.parameters()).device


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """`images`, uint8 (images, height, width, 3), as a tensor on `device`.

    Its shape is (images, 3, height, width). In memory the channels stay last, which PyTorch calls
    ``channels_last``.
    """
    # A copy, as the arrays may be mapped from a read-only file.
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2)


@torch.inference_mode()
def predict(
    model: nn.Module, images: np.ndarray, *, precision: str = "float32", batch_size: int = 256
) -> torch.Tensor:
    """The logits of `images`, uint8 (images, height, width, 3): float32, (images,), on the CPU.

    `model` is in evaluation mode from then on. With `precision` ``"bfloat16"`` it computes with
    autocast.
    """
    model.eval()
    device = device_of(model)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = [
            model(to_tensor(images[start : start + batch_size], device)).float()
            for start in range(0, len(images), batch_size)
        ]
    return torch.cat(logits).cpu()


def augment(images: torch.Tensor, *, flip: bool = True, shift: float = 0.0) -> torch.Tensor:
    """Data augmentation: a random horizontal flip and translation of each of `images`.

    `images` are (images, height, width, channels), of any type; so is what is returned.
    `flip`: flip half of the images left to right. `shift`: random translation, up, down, left and
    right, by at most this share of the height and the width; by whole pixels, and the edges are
    repeated. The same as `catsdogs.networks.augment.RandomAugmentation` does with these two
    arguments.
    """
    count, height, width, channels = images.shape

    def uniform():
        return torch.rand(count, 1, device=images.device)

    def moved(length):  # (images, length): which old row, or column, each new one shows
        start = ((2 * uniform() - 1) * shift * length).round().long()
        return (torch.arange(length, device=images.device) + start).clamp(0, length - 1)

    rows, columns = moved(height), moved(width)
    if flip:
        columns = torch.where(uniform() < 0.5, columns.flip(1), columns)
    # All pixels of the batch in one gather, instead of a loop over the images.
    image = torch.arange(count, device=images.device)[:, None, None]
    source = (image * height + rows[:, :, None]) * width + columns[:, None, :]
    return images.reshape(-1, channels).index_select(0, source.flatten()).reshape(images.shape)
