"""Layers that change photos at random while a model trains, and do nothing otherwise."""

from catsdogs.backend import keras

ops = keras.ops

#: Names for the hyperparameter ``AUGMENT``: what `augmentation` builds.
STRENGTHS = {
    "none": {},
    "light": {"shift": 1 / 16},
    "strong": {"shift": 1 / 16, "zoom": (0.8, 1.2), "lighting": 0.2},
    # The generator of the recipe that many repositories share: zoom_range=0.2 and horizontal_flip=True.
    # (Its shear_range=0.2 is 0.2 degrees, less than a pixel at 64 pixels.)
    "seeds": {"zoom": (0.8, 1.2)},
}


def augmentation(strength: str = "light", seed: int = 0) -> keras.Layer:
    """The augmentation named `strength` (a key of `STRENGTHS`) as one layer.

    Raises `ValueError` for an unknown name.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"augmentation {strength!r} is not known: choose one of {', '.join(STRENGTHS)}")
    if strength == "none":
        return keras.layers.Identity(name="augmentation")
    return RandomView(**STRENGTHS[strength], seed=seed, name="augmentation")


@keras.saving.register_keras_serializable("catsdogs")
class RandomView(keras.layers.Layer):
    """A random view of each photo: mirrored or not, moved a little, a window of it at random, in another light.

    Photos are (batch, height, width, channels), 0 to 255; what comes out has the same shape and range.

    - ``flip``: mirror half of the photos left to right.
    - ``shift``: how far a photo is moved at most, up, down, left or right, as a share of its sides. It moves by
      whole pixels, which keeps it as sharp as it was; its edges are repeated.
    - ``zoom``: a window's height and width, drawn apart, as shares of the photo's: ``(0.8, 1.0)`` cuts
      up to a fifth away. A share above 1 shows the photo smaller, its edges repeated. Pixels are interpolated, so
      that the network learns from photos less sharp than those it will be given.
    - ``lighting``: 0.2 changes brightness by up to 20% of the range and contrast by up to 20%.

    Window, size and mirror are one linear map an axis, so that the whole is two matrix products: the
    same code is fast on every backend, on a CPU and on a GPU, and compiles.
    """

    def __init__(self, shift=0.0, zoom=(1.0, 1.0), flip=True, lighting=0.0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.shift, self.zoom, self.flip, self.lighting, self.seed = shift, tuple(zoom), flip, lighting, seed
        self.generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, images, training=None):
        if not training:
            return images
        images = ops.cast(images, self.compute_dtype)
        batch, height, width, channels = ops.shape(images)
        rows = self._map(batch, images.shape[1], flip=False)
        columns = self._map(batch, images.shape[2], flip=self.flip)
        views = ops.matmul(rows, ops.reshape(images, (batch, height, width * channels)))
        views = ops.transpose(ops.reshape(views, (batch, height, width, channels)), (0, 2, 1, 3))
        views = ops.matmul(columns, ops.reshape(views, (batch, width, height * channels)))
        views = ops.transpose(ops.reshape(views, (batch, width, height, channels)), (0, 2, 1, 3))
        if self.lighting:
            contrast = self._uniform((batch, 1, 1, 1), 1 - self.lighting, 1 + self.lighting)
            brightness = self._uniform((batch, 1, 1, 1), -255 * self.lighting, 255 * self.lighting)
            mean = ops.mean(views, axis=(1, 2, 3), keepdims=True)
            views = ops.clip((views - mean) * contrast + mean + brightness, 0, 255)
        return views

    def _map(self, batch, length, flip):
        """Weights of shape (batch, length, length): how much of each old line is in each new one."""
        share = self._uniform((batch, 1), *self.zoom)
        start = self._uniform((batch, 1), 0.0, 1.0) * (1 - share) * length
        start += ops.round(self._uniform((batch, 1), -1.0, 1.0) * self.shift * length)
        old = ops.cast(ops.arange(length), self.compute_dtype)
        wanted = ops.clip(start + (old + 0.5) * share - 0.5, 0, length - 1)
        if flip:
            mirrored = self._uniform((batch, 1), 0.0, 1.0) < 0.5
            wanted = ops.where(mirrored, length - 1 - wanted, wanted)
        return ops.relu(1 - ops.abs(wanted[:, :, None] - old))

    def _uniform(self, shape, low, high):
        return keras.random.uniform(shape, low, high, dtype=self.compute_dtype, seed=self.generator)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "shift": self.shift, "zoom": self.zoom, "flip": self.flip, "lighting": self.lighting,
                "seed": self.seed}
