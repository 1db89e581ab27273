"""Layers that change photos at random while a model trains, and do nothing otherwise."""

from catsdogs.backend import keras

ops = keras.ops

#: Names for the hyperparameter ``AUGMENT``: what `augmentation` builds.
STRENGTHS = {
    "none": {},
    "light": {"shift": 1 / 16},
    "strong": {"shift": 1 / 16, "zoom": (0.8, 1.2), "lighting": 0.2, "color": 0.2},
    # For photos that are larger than what the network is shown of them (see `augmentation`).
    "windows": {"zoom": (0.65, 1.0), "lighting": 0.1, "color": 0.1},
    "wide windows": {"zoom": (0.4, 1.0), "lighting": 0.2, "color": 0.2},
    # The generator of the recipe that many repositories share: zoom_range=0.2 and horizontal_flip=True.
    # (Its shear_range=0.2 is 0.2 degrees, less than a pixel at 64 pixels.)
    "seeds": {"zoom": (0.8, 1.2)},
}


def augmentation(strength: str = "light", seed: int = 0, size: int | None = None) -> keras.Layer:
    """The augmentation named `strength` (a key of `STRENGTHS`) as one layer.

    With `size`, what it shows of each photo while training is `size` pixels a side, whatever the photo's.

    Raises `ValueError` for an unknown name.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"augmentation {strength!r} is not known: choose one of {', '.join(STRENGTHS)}")
    if strength == "none" and size is None:
        return keras.layers.Identity(name="augmentation")
    return RandomView(**STRENGTHS[strength] or {"flip": False}, size=size, seed=seed, name="augmentation")


@keras.saving.register_keras_serializable("catsdogs")
class RandomView(keras.layers.Layer):
    """A random view of each photo: mirrored or not, moved a little, a window of it at random, in another light.

    Photos are (batch, height, width, channels), 0 to 255; what comes out has the same shape and range, unless ``size``
    says otherwise.

    - ``flip``: mirror half of the photos left to right.
    - ``shift``: how far a photo is moved at most, up, down, left or right, as a share of its sides. It moves by
      whole pixels, which keeps it as sharp as it was; its edges are repeated.
    - ``zoom``: a window's height and width, drawn apart, as shares of the photo's: ``(0.8, 1.0)`` cuts
      up to a fifth away. A share above 1 shows the photo smaller, its edges repeated. Pixels are interpolated, so
      that the network learns from photos less sharp than those it will be given.
    - ``size``: height and width, in pixels, of what comes out while training; None leaves those of the photo. A network
      that takes photos of any size then trains on few pixels and answers on many.
    - ``lighting``: 0.2 changes brightness by up to 20% of the range and contrast by up to 20%.
    - ``color``: 0.2 changes the strength of red, green and blue by up to 20% each, and how colourful a photo is by up to 40%.

    Window, size and mirror are one linear map an axis, so that the whole is two matrix products: the
    same code is fast on every backend, on a CPU and on a GPU, and compiles.
    """

    def __init__(self, shift=0.0, zoom=(1.0, 1.0), flip=True, lighting=0.0, color=0.0, size=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.shift, self.zoom, self.flip, self.seed = shift, tuple(zoom), flip, seed
        self.lighting, self.color, self.size = lighting, color, size
        self.generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, images, training=None):
        if not training:
            return images
        images = ops.cast(images, self.compute_dtype)
        batch, height, width, channels = ops.shape(images)
        new_height, new_width = self.size or height, self.size or width
        rows = self._map(batch, images.shape[1], self.size or images.shape[1], flip=False)
        columns = self._map(batch, images.shape[2], self.size or images.shape[2], flip=self.flip)
        views = ops.matmul(rows, ops.reshape(images, (batch, height, width * channels)))
        views = ops.transpose(ops.reshape(views, (batch, new_height, width, channels)), (0, 2, 1, 3))
        views = ops.matmul(columns, ops.reshape(views, (batch, width, new_height * channels)))
        views = ops.transpose(ops.reshape(views, (batch, new_width, new_height, channels)), (0, 2, 1, 3))
        if self.lighting or self.color:
            views = self._relight(views)
        return views

    def _relight(self, views):
        # Colour, contrast and brightness together are one linear map of red, green and blue a photo: one pass instead of six.
        batch, height, width, channels = ops.shape(views)
        saturation = self._uniform((batch, 1, 1), 1 - 2 * self.color, 1 + 2 * self.color)
        strengths = self._uniform((batch, 1, channels), 1 - self.color, 1 + self.color)
        contrast = self._uniform((batch, 1, 1), 1 - self.lighting, 1 + self.lighting)
        brightness = self._uniform((batch, 1, 1), -255 * self.lighting, 255 * self.lighting)
        views = ops.reshape(views, (batch, height * width, channels))
        mixed = (saturation * ops.eye(channels, dtype=self.compute_dtype) + (1 - saturation) / channels) * strengths
        mean = ops.mean(ops.matmul(ops.mean(views, axis=1, keepdims=True), mixed), axis=2, keepdims=True)
        views = ops.matmul(views, mixed * contrast) + (mean * (1 - contrast) + brightness)
        return ops.reshape(ops.clip(views, 0, 255), (batch, height, width, channels))

    def _map(self, batch, length, new_length, flip):
        """Weights of shape (batch, new_length, length): how much of each old line is in each new one."""
        # In float32 whatever the layer computes in: bfloat16 tells positions above 128 apart by whole pixels only.
        share = self._uniform((batch, 1), *self.zoom, dtype="float32")
        start = self._uniform((batch, 1), 0.0, 1.0, dtype="float32") * (1 - share) * length
        start += ops.round(self._uniform((batch, 1), -1.0, 1.0, dtype="float32") * self.shift * length)
        old, new = ops.arange(length, dtype="float32"), ops.arange(new_length, dtype="float32")
        wanted = ops.clip(start + (new + 0.5) * share * (length / new_length) - 0.5, 0, length - 1)
        if flip:
            mirrored = self._uniform((batch, 1), 0.0, 1.0, dtype="float32") < 0.5
            wanted = ops.where(mirrored, length - 1 - wanted, wanted)
        return ops.cast(ops.relu(1 - ops.abs(wanted[:, :, None] - old)), self.compute_dtype)

    def _uniform(self, shape, low, high, dtype=None):
        return keras.random.uniform(shape, low, high, dtype=dtype or self.compute_dtype, seed=self.generator)

    def compute_output_shape(self, input_shape):
        return input_shape if self.size is None else (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "shift": self.shift, "zoom": self.zoom, "flip": self.flip, "lighting": self.lighting,
                "color": self.color, "size": self.size, "seed": self.seed}
