"""One model of several predictions: the mean of the probabilities of several models, flips, turns and scales of an image."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from kseg.models.ops.resize import resize_bilinear
from kseg.utils.errors import KsegError

SCALES = (0.75, 1.0, 1.25)
"""What --tta=scales multiplies an image's sides by; never below 32 pixels."""


class View(NamedTuple):
    """A way to look at images [B, H, W, 3]: resized, then transposed, flipped upside down, flipped left to right."""

    scale: float = 1.0
    transpose: bool = False
    vertical: bool = False
    horizontal: bool = False

    def apply(self, images: Any) -> Any:
        """Returns the images as they are seen so."""
        size = tuple(max(32, round(side * self.scale)) for side in images.shape[1:3])
        x = images if self.scale == 1 else resize_bilinear(images, size, align_corners=False)
        return self._flip(ops.transpose(x, (0, 2, 1, 3)) if self.transpose else x)

    def undo(self, x: Any, size: tuple[int, int]) -> Any:
        """Returns maps [B, h, w, C] of what apply returned as maps of the images, which are of `size`: [B, H, W, C]."""
        x = self._flip(x)
        x = ops.transpose(x, (0, 2, 1, 3)) if self.transpose else x
        return resize_bilinear(x, size, align_corners=False)

    def _flip(self, x: Any) -> Any:
        axes = [axis for axis, flipped in ((1, self.vertical), (2, self.horizontal)) if flipped]
        return ops.flip(x, axes) if axes else x


def views(tta: Sequence[str], size: tuple[int, int]) -> list[View]:
    """Returns all views that the names of --tta make together for images of `size`; the plain one is the first.

    hflip: left to right; vflip: upside down; flips: both and their combination; turns: the four quarter turns, with a flip all
    eight ways to lay a square; scales: each at SCALES. Raises KsegError for turns of what is not square.
    """
    if "turns" in tta and size[0] != size[1]:
        raise KsegError(f"--tta=turns: quarter turns need a square input, and it is {size[0]}x{size[1]}; leave them out")
    vertical, horizontal = (any(name in tta for name in (flip, "flips")) for flip in ("vflip", "hflip"))
    no_or_yes = (False, True)
    if "turns" in tta:
        laid = [way for way in itertools.product(no_or_yes, repeat=3) if vertical or horizontal or sum(way) % 2 == 0]
    else:
        laid = list(itertools.product((False,), no_or_yes[: 1 + vertical], no_or_yes[: 1 + horizontal]))
    scales = sorted(SCALES, key=lambda scale: scale != 1) if "scales" in tta else [1.0]
    return [View(scale, *way) for scale in scales for way in laid]


class _MeanProbabilities(keras.layers.Layer):
    """Images [B, H, W, 3], H and W known, to the mean of softmax(logits) over models and views, float32 [B, H, W, C]."""

    def __init__(self, models: Sequence[keras.Model], looks: Sequence[View]):
        super().__init__(dtype="float32")
        self.models, self.looks = list(models), list(looks)

    def call(self, images):
        size = images.shape[1:3]
        total = 0.0
        for view in self.looks:
            seen = view.apply(images)
            for model in self.models:
                total = total + view.undo(ops.softmax(ops.cast(model(seen, training=False), "float32")), size)
        return total / (len(self.looks) * len(self.models))

    def compute_output_spec(self, images):
        return keras.KerasTensor((*images.shape[:3], self.models[0].output.shape[-1]), "float32")


def mean_probabilities(models: Sequence[keras.Model], size: tuple[int, int], tta: Sequence[str] = ()) -> keras.Model:
    """Returns a model of images [B, H, W, 3] of `size` to the mean of the models' probabilities, float32 [B, H, W, C].

    models: logits of the same C classes each. tta: see views. It is one jitted step, compiled once. Raises KsegError as views.
    """
    images = keras.Input((*size, models[0].input.shape[-1]), dtype="float32")
    return keras.Model(images, _MeanProbabilities(models, views(tta, size))(images))
