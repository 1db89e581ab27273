"""First filters made from the photos themselves, so that training need not begin with noise."""

import numpy as np

from catsdogs.backend import keras


def whiten(
    convolution: keras.layers.Conv2D, images: np.ndarray, *, patches: int = 40_000, seed: int = 0
) -> None:
    """Set the filters of a first `convolution`, which must be built and without a bias, to `whitening_filters` of `images`."""
    height, width, _, filters = convolution.kernel.shape
    convolution.kernel.assign(
        whitening_filters(images, (height, width), filters, patches=patches, seed=seed)
    )


def whitening_filters(
    images: np.ndarray, size: tuple[int, int], filters: int, *, patches: int = 40_000, seed: int = 0
) -> np.ndarray:
    """Filters that are what patches of `images` are made of: float32, (height, width, 3, filters), as Keras has them.

    `images` are (photos, height, width, 3), 0 to 255, at least as large as the filters, whose height and width are
    `size`; the convolution is expected to be given them scaled to -1 to 1. Half of the filters are
    the principal components of the patches, strongest first, each divided by its standard
    deviation; the other half their negatives, which ReLU tells apart. So what the layer answers is
    uncorrelated and of one size from the first step, and training goes on from there.

    After Coates and Ng (2011), "The Importance of Encoding Versus Training with Sparse Coding and Vector
    Quantization", and Jordan (2024), "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", who keep such
    filters fixed; here they are only the beginning.

    Raises `ValueError` for an odd number of filters, or more of them than twice a patch's numbers.
    """
    (height, width), channels = size, images.shape[-1]
    if filters % 2 or filters > 2 * height * width * channels:
        raise ValueError(
            f"{filters} filters of {height}×{width}: expected an even number, "
            f"at most {2 * height * width * channels}"
        )
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, images.shape[1] - height + 1, patches)
    columns = rng.integers(0, images.shape[2] - width + 1, patches)
    chosen = rng.integers(0, len(images), patches)
    cut = np.stack(
        [
            images[i, y : y + height, x : x + width].reshape(-1)
            for i, y, x in zip(chosen, rows, columns)
        ]
    )
    cut = cut.astype("float32") / 127.5 - 1
    strengths, components = np.linalg.eigh(np.cov(cut, rowvar=False))
    strongest = np.argsort(strengths)[::-1][: filters // 2]
    # The small number keeps the weakest components, which are mostly JPEG's noise, from being blown up.
    kernel = (components[:, strongest] / np.sqrt(strengths[strongest] + 1e-2)).T
    kernel = np.concatenate([kernel, -kernel])
    kernel /= np.linalg.norm(kernel, axis=1).mean()
    return kernel.reshape(filters, height, width, channels).transpose(1, 2, 3, 0).astype("float32")
