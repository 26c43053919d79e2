"""Applies albumentations transforms to samples, with a seed for each sample.

Every pipeline ends with a Resize to the model's input size. Labels are resampled by nearest neighbour only. Pixels from outside
the image become black and ignored (label 255). Transforms never normalise: the model does.
"""

import random
import threading
from typing import Any

import albumentations as A
import cv2
import numpy as np

from kseg.data.augmentation.presets import NEAREST
from kseg.data.augmentation.transforms import read_transforms, to_dict


class Augmenter:
    """Applies transforms to samples. The result depends on (image, label, seed) alone.

    It can be called from many threads at once. A Compose holds random state, so every thread has its own Compose, seeded before
    every sample. Augmenters can be pickled and compared, and a copy gives the same results in another process.

    Args:
        augment: a preset's name, a list of transforms or a file (kseg.data.augmentation.transforms.read_transforms).
        image_size: (height, width) of the result.

    Raises:
        KsegError: for an unknown or unsuitable transform or argument.
    """

    def __init__(self, augment: str, image_size: tuple[int, int]):
        self.image_size = image_size
        self._recipe = read_transforms(augment)
        self._thread = threading.local()
        self._thread.compose = self._make()

    def __call__(self, image: np.ndarray, label: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Augments image uint8 [H, W, 3] and label uint8 [H, W]; returns both with image_size."""
        if not hasattr(self._thread, "compose"):
            self._thread.compose = self._make()
        compose = self._thread.compose
        # One random stream for all transforms. Compose.set_random_seed would seed each transform with the same number, so that
        # a flip with probability 0.5 would happen exactly when the other flip, the blur and the distortion do.
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = compose(image=image, mask=label)
        return np.ascontiguousarray(out["image"]), np.ascontiguousarray(out["mask"])

    def to_dict(self) -> dict[str, Any]:
        """Returns all transforms with their arguments, in the form of A.to_dict."""
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
    """Returns the transforms of training and validation images, in the form of A.to_dict. Raises KsegError as Augmenter does."""
    names = {"train": augment, "validation": "none"}
    return {split: Augmenter(name, image_size).to_dict() for split, name in names.items()}


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed of one sample in one epoch. It is the same in every process."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
