"""Augmentation presets (albumentations) and their seeding.

A preset is a function from the network's input size to a list of transforms; a Resize to that size closes every pipeline.
Labels are resampled by nearest neighbour only, and what comes in from outside the picture is ignored (label 255, black
pixels). Presets never normalise: the model does.
"""

import os
import random
import threading
from typing import Any

import cv2
import numpy as np

from kseg.data.augmentation.presets import NEAREST

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions at import
import albumentations as A


class Augmenter:
    """Applies transforms to samples, from many threads at once, each sample with its own seed.

    A Compose holds its random state, so every thread has one of its own, reseeded before every sample: the result depends on
    (image, label, seed) alone. Equal and picklable: another process makes the same of it.

    Args:
        augment: a preset's name, a list of transforms or a file (kseg.data.augmentation.transforms.read_transforms).
        image_size: (height, width) of the result.

    Raises:
        KsegError: one line, with the nearest names where one is unknown.
    """

    def __init__(self, augment: str, image_size: tuple[int, int]):
        from kseg.data.augmentation.transforms import read_transforms  # which knows the presets

        self.image_size = image_size
        self._recipe = read_transforms(augment)
        self._thread = threading.local()
        self._thread.compose = self._make()

    def __call__(self, image: np.ndarray, label: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """image uint8 [H, W, 3], label uint8 [H, W] -> the same at the input size."""
        if not hasattr(self._thread, "compose"):
            self._thread.compose = self._make()
        compose = self._thread.compose
        # One stream for all: Compose.set_random_seed would start every transform from the same number, and a flip that comes
        # with probability 0.5 would come exactly when the other flip, the blur and the distortion do.
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = compose(image=image, mask=label)
        return np.ascontiguousarray(out["image"]), np.ascontiguousarray(out["mask"])

    def to_dict(self) -> dict[str, Any]:
        """Returns every transform with all its arguments, as albumentations writes them (A.to_dict)."""
        from kseg.data.augmentation.transforms import to_dict

        return to_dict(self._make())

    def _make(self) -> A.Compose:
        height, width = self.image_size
        resize = A.Resize(height, width, interpolation=cv2.INTER_LINEAR, **NEAREST)
        return A.Compose([*self._recipe.build(height, width), resize])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Augmenter) and (self._recipe, self.image_size) == (other._recipe, other.image_size)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "_recipe": self._recipe}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=threading.local())


def describe_transforms(augment: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """Returns what happens to training and to validation images, as A.to_dict writes it. Raises KsegError as Augmenter."""
    names = {"train": augment, "validation": "none"}
    return {split: Augmenter(name, image_size).to_dict() for split, name in names.items()}


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed of one sample of one epoch: well mixed, and the same in every process."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
