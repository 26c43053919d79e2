"""Augmentation presets (albumentations) and their seeding.

A preset is a function from the network's input size to a list of transforms; a Resize to that size closes every pipeline.
Labels are resampled by nearest neighbour only, and what comes in from outside the picture is ignored (label 255, black
pixels). Presets never
normalise: the model does.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from kseg.data.dataset import IGNORE_INDEX
from kseg.registry import Registry

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions at import
import albumentations as A
import cv2

PRESETS = Registry("augmentation")
_OUTSIDE = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}


@PRESETS.register()
def none(height: int, width: int) -> list[Any]:
    """Nothing but the resize."""
    return []


@PRESETS.register()
def light(height: int, width: int) -> list[Any]:
    """A crop of a quarter to all of the picture, scaled to the input size; horizontal flips; mild changes of light and colour."""
    aspect = width / height
    crop = A.RandomResizedCrop(
        size=(height, width), scale=(0.25, 1.0), ratio=(0.8 * aspect, 1.25 * aspect), mask_interpolation=cv2.INTER_NEAREST_EXACT
    )
    return [crop, A.HorizontalFlip(p=0.5), A.ColorJitter(0.3, 0.3, 0.3, 0.03, p=0.8)]


@PRESETS.register()
def aug(height: int, width: int) -> list[Any]:
    """The diary's AUG: flips, quarter turns, motion and Gaussian blur, optical distortion, each with albumentations' own
    defaults.
    """
    return [
        A.HorizontalFlip(),
        A.VerticalFlip(),
        A.RandomRotate90(),
        A.MotionBlur(),
        A.GaussianBlur(),
        A.OpticalDistortion(mask_interpolation=cv2.INTER_NEAREST, **_OUTSIDE),
    ]


def check_preset(name: str) -> None:
    """Raises KsegError with the nearest names if there is no such preset."""
    PRESETS[name]


class Augmenter:
    """Applies a preset to samples, from many threads at once, each sample with its own seed.

    A Compose holds its random state, so every thread has one of its own, reseeded before every sample: the result depends on
    (image, label, seed) alone.
    """

    def __init__(self, preset: str, image_size: tuple[int, int]):
        """Raises KsegError with the nearest names if the preset is unknown."""
        build: Callable[[int, int], list[Any]] = PRESETS[preset].build
        height, width = image_size
        self._make = lambda: A.Compose(
            [
                *build(height, width),
                A.Resize(height, width, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST_EXACT),
            ]
        )
        self._thread = threading.local()
        self._make()

    def __call__(self, image: np.ndarray, label: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """image uint8 [H, W, 3], label uint8 [H, W] -> the same at the input size."""
        if not hasattr(self._thread, "compose"):
            self._thread.compose = self._make()
        compose = self._thread.compose
        compose.set_random_seed(seed)
        out = compose(image=image, mask=label)
        return np.ascontiguousarray(out["image"]), np.ascontiguousarray(out["mask"])


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed of one sample of one epoch: well mixed, and the same in every process."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
