"""Ensembles and test-time augmentation: the mean of probabilities over models and over flips, turns and scales of an image."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from kseg.inference.exported import check_not_exported
from kseg.models.ops.resize import resize_bilinear
from kseg.utils.errors import KsegError

SCALES = (0.75, 1.0, 1.25)
"""Factors of --tta=scales; no side gets below 32 pixels."""


class View(NamedTuple):
    """A transform of images [B, H, W, 3]: resize, then transpose, flip vertically, flip horizontally."""

    scale: float = 1.0
    transpose: bool = False
    vertical: bool = False
    horizontal: bool = False

    def apply(self, images: Any) -> Any:
        """Returns the transformed images."""
        size = tuple(max(32, round(side * self.scale)) for side in images.shape[1:3])
        x = images if self.scale == 1 else resize_bilinear(images, size, align_corners=False)
        return self._flip(ops.transpose(x, (0, 2, 1, 3)) if self.transpose else x)

    def undo(self, x: Any, size: tuple[int, int]) -> Any:
        """Transforms maps [B, h, w, C] of the transformed images back to maps [B, *size, C] of the images."""
        x = self._flip(x)
        x = ops.transpose(x, (0, 2, 1, 3)) if self.transpose else x
        return resize_bilinear(x, size, align_corners=False)

    def _flip(self, x: Any) -> Any:
        axes = [axis for axis, flipped in ((1, self.vertical), (2, self.horizontal)) if flipped]
        return ops.flip(x, axes) if axes else x


def views(tta: Sequence[str], size: tuple[int, int]) -> list[View]:
    """Returns all combinations of the views that --tta names, the identity first.

    hflip: left to right. vflip: upside down. flips: both, and both together. turns: the four quarter turns; with a flip, all
    eight symmetries of a square. scales: SCALES. size: of the images. Raises KsegError for turns of images that are not square.
    """
    if "turns" in tta and size[0] != size[1]:
        raise KsegError(f"--tta=turns: quarter turns need a square input, not {size[0]}x{size[1]}; leave them out")
    vertical, horizontal = (any(name in tta for name in (flip, "flips")) for flip in ("vflip", "hflip"))
    no_or_yes = (False, True)
    if "turns" in tta:
        orientations = [way for way in itertools.product(no_or_yes, repeat=3) if vertical or horizontal or sum(way) % 2 == 0]
    else:
        orientations = list(itertools.product((False,), no_or_yes[: 1 + vertical], no_or_yes[: 1 + horizontal]))
    scales = sorted(SCALES, key=lambda scale: scale != 1) if "scales" in tta else [1.0]
    return [View(scale, *way) for scale in scales for way in orientations]


class _MeanProbabilities(keras.layers.Layer):
    """Maps images [B, H, W, 3], H and W known, to the mean of softmax(logits) over models and views, float32 [B, H, W, C]."""

    def __init__(self, models: Sequence[keras.Model], views: Sequence[View]):
        super().__init__(dtype="float32")
        self.models, self.views = list(models), list(views)

    def call(self, images):
        size = images.shape[1:3]
        total = 0.0
        for view in self.views:
            transformed = view.apply(images)
            for model in self.models:
                total = total + view.undo(ops.softmax(ops.cast(model(transformed, training=False), "float32")), size)
        return total / (len(self.views) * len(self.models))

    def compute_output_spec(self, images):
        return keras.KerasTensor((*images.shape[:3], self.models[0].output.shape[-1]), "float32")


def mean_probabilities(models: Sequence[keras.Model], size: tuple[int, int], tta: Sequence[str] = ()) -> keras.Model:
    """Returns a model of images [B, *size, 3] to the mean of the models' probabilities, float32 [B, *size, C].

    models: to logits of the same C classes. tta: as in views. Raises KsegError as views does, and for an exported model.
    """
    for model in models:
        check_not_exported(model, "--ensemble, --tta and --window")
    images = keras.Input((*size, models[0].input.shape[-1]), dtype="float32")
    return keras.Model(images, _MeanProbabilities(models, views(tta, size))(images))
