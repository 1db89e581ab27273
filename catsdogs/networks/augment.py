"""Data augmentation: a layer that changes images at random in training, and does nothing otherwise.

It is one layer for all presets. For the flips and translations of ``light`` alone,
`keras.layers.RandomFlip` and `RandomTranslation` would do as well (benchmarks/RESULTS.md has the
measurements), but they neither crop nor resize nor change colors.
"""

from catsdogs.backend import keras

ops = keras.ops

#: Strengths by name, each the arguments of `RandomAugmentation`. A run record has the numbers, not
#: only the name.
PRESETS: dict[str, dict] = {
    "none": dict(flip=False),
    "light": dict(flip=True, shift=1 / 16),
    "strong": dict(flip=True, shift=1 / 16, zoom=(0.8, 1.2), lighting=0.2, color=0.2),
    # For networks that are trained on crops, smaller than the photos they are applied to.
    "crop": dict(flip=True, zoom=(0.65, 1.0), lighting=0.1, color=0.1),
    "wide crop": dict(flip=True, zoom=(0.4, 1.0), lighting=0.2, color=0.2),
    # That of the baseline recipe: zoom_range=0.2 and horizontal_flip=True. (Its shear_range=0.2 is
    # 0.2 degrees, less than a pixel at 64 pixels.)
    "baseline": dict(flip=True, zoom=(0.8, 1.2)),
}


def augmentation(
    strengths: str | dict | None = "light", seed: int = 0, size: int | None = None
) -> "RandomAugmentation":
    """A `RandomAugmentation` of these `strengths`: a key of `PRESETS`, or the arguments themselves.

    None is the same as ``"none"``. With `size`, its output in training is `size` pixels per side,
    whatever the size of the images.

    Raises `ValueError` for an unknown name.
    """
    if strengths is None or isinstance(strengths, str):
        strengths = "none" if strengths is None else strengths
        if strengths not in PRESETS:
            raise ValueError(
                f"augmentation {strengths!r} is not known: choose one of {', '.join(PRESETS)}"
            )
        strengths = PRESETS[strengths]
    return RandomAugmentation(**strengths, size=size, seed=seed, name="augmentation")


@keras.saving.register_keras_serializable("catsdogs")
class RandomAugmentation(keras.layers.Layer):
    """Random horizontal flip, translation, resized crop and color jitter, different for each image.

    Images are (batch, height, width, channels), 0 to 255; the output has the same shape and range,
    unless ``size`` says otherwise.

    - ``flip``: flip half of the images left to right.
    - ``shift``: random translation, up or down and left or right, by at most this fraction of the
      height and the width. It is by whole pixels, which keeps the image as sharp as it was; its
      edges are repeated.
    - ``zoom``: random resized crop. Height and width of the crop are drawn independently, as
      fractions of the image's: ``(0.8, 1.0)`` crops up to a fifth; a fraction above 1 zooms out,
      and the edges are repeated. Pixels are interpolated, so the network learns from images less
      sharp than those it will be given.
    - ``size``: height and width of the output in training, in pixels; None leaves those of the
      image. A network that takes images of any size is then trained on few pixels and applied to
      many.
    - ``lighting``: 0.2 changes brightness by up to 20% of the range and contrast by up to 20%.
    - ``color``: 0.2 scales red, green and blue by up to 20% each, and saturation by up to 40%.

    Crop, translation, resizing and flip are one linear map per axis, so all of them together are
    two matrix products: the same code is fast on every backend, on a CPU and on a GPU, and
    compiles.
    """

    def __init__(
        self,
        shift=0.0,
        zoom=(1.0, 1.0),
        flip=True,
        lighting=0.0,
        color=0.0,
        size=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shift, self.zoom, self.flip, self.seed = shift, tuple(zoom), flip, seed
        self.lighting, self.color, self.size = lighting, color, size
        self.generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        strengths = (flip, shift, lighting, color, self.zoom != (1.0, 1.0))
        self._does_something = any(strengths)

    def call(self, images, training=None):
        if not training or not (self._does_something or self.size):
            return images
        images = ops.cast(images, self.compute_dtype)
        batch, height, width, channels = ops.shape(images)
        new_height, new_width = self.size or height, self.size or width
        rows = self._map(batch, images.shape[1], self.size or images.shape[1], flip=False)
        columns = self._map(batch, images.shape[2], self.size or images.shape[2], flip=self.flip)
        views = ops.matmul(rows, ops.reshape(images, (batch, height, width * channels)))
        views = ops.transpose(
            ops.reshape(views, (batch, new_height, width, channels)), (0, 2, 1, 3)
        )
        views = ops.matmul(columns, ops.reshape(views, (batch, width, new_height * channels)))
        views = ops.transpose(
            ops.reshape(views, (batch, new_width, new_height, channels)), (0, 2, 1, 3)
        )
        if self.lighting or self.color:
            views = self._relight(views)
        return views

    def _relight(self, views):
        # Color, contrast and brightness together are one linear map of red, green and blue per
        # image: one pass instead of six.
        batch, height, width, channels = ops.shape(views)
        saturation = self._uniform((batch, 1, 1), 1 - 2 * self.color, 1 + 2 * self.color)
        strengths = self._uniform((batch, 1, channels), 1 - self.color, 1 + self.color)
        contrast = self._uniform((batch, 1, 1), 1 - self.lighting, 1 + self.lighting)
        brightness = self._uniform((batch, 1, 1), -255 * self.lighting, 255 * self.lighting)
        views = ops.reshape(views, (batch, height * width, channels))
        mixed = (
            saturation * ops.eye(channels, dtype=self.compute_dtype) + (1 - saturation) / channels
        ) * strengths
        mean = ops.mean(
            ops.matmul(ops.mean(views, axis=1, keepdims=True), mixed), axis=2, keepdims=True
        )
        views = ops.matmul(views, mixed * contrast) + (mean * (1 - contrast) + brightness)
        return ops.reshape(ops.clip(views, 0, 255), (batch, height, width, channels))

    def _map(self, batch, length, new_length, flip):
        """Weights (batch, new_length, length): the share of each input line in each output line."""
        # In float32 whatever the layer computes in: above 128, bfloat16 has whole numbers only.
        share = self._uniform((batch, 1), *self.zoom, dtype="float32")
        start = self._uniform((batch, 1), 0.0, 1.0, dtype="float32") * (1 - share) * length
        start += ops.round(
            self._uniform((batch, 1), -1.0, 1.0, dtype="float32") * self.shift * length
        )
        old, new = ops.arange(length, dtype="float32"), ops.arange(new_length, dtype="float32")
        wanted = ops.clip(start + (new + 0.5) * share * (length / new_length) - 0.5, 0, length - 1)
        if flip:
            flipped = self._uniform((batch, 1), 0.0, 1.0, dtype="float32") < 0.5
            wanted = ops.where(flipped, length - 1 - wanted, wanted)
        return ops.cast(ops.relu(1 - ops.abs(wanted[:, :, None] - old)), self.compute_dtype)

    def _uniform(self, shape, low, high, dtype=None):
        return keras.random.uniform(
            shape, low, high, dtype=dtype or self.compute_dtype, seed=self.generator
        )

    def compute_output_shape(self, input_shape):
        if self.size is None:
            return input_shape
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self):
        return {
            **super().get_config(),
            "shift": self.shift,
            "zoom": self.zoom,
            "flip": self.flip,
            "lighting": self.lighting,
            "color": self.color,
            "size": self.size,
            "seed": self.seed,
        }
