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

from kseg.data.dataset import IGNORE_INDEX
from kseg.data.elastic import ElasticTransform
from kseg.registry import Registry

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions at import
import albumentations as A

PRESETS = Registry("augmentation")
_OUTSIDE = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}
_NEAREST = {"mask_interpolation": cv2.INTER_NEAREST_EXACT}
"""Nearest neighbour at half-pixel centres, for resizing. Warps take INTER_NEAREST: OpenCV's remap knows no other."""


@PRESETS.register()
def none(height: int, width: int) -> list[Any]:
    """Nothing but the resize."""
    return []


@PRESETS.register()
def light(height: int, width: int) -> list[Any]:
    """A crop of a quarter to all of the picture, scaled to the input size; horizontal flips; mild changes of light and colour."""
    aspect = width / height
    crop = A.RandomResizedCrop(size=(height, width), scale=(0.25, 1.0), ratio=(0.8 * aspect, 1.25 * aspect), **_NEAREST)
    return [crop, A.HorizontalFlip(p=0.5), A.ColorJitter(0.3, 0.3, 0.3, 0.03, p=0.8)]


@PRESETS.register()
def strong(height: int, width: int) -> list[Any]:
    """The picture at 0.5 to 2 times the input size and a random window of the input size, as large data sets are trained;
    horizontal flips; strong changes of light and colour; now and then grey or blurred.
    """
    return [
        A.Resize(2 * height, 2 * width, **_NEAREST),  # enlarged first, so that zooming in still sees what the file holds
        A.RandomScale((-0.75, 0.0), p=1.0, **_NEAREST),
        A.PadIfNeeded(height, width, position="random", p=1.0, **_OUTSIDE),
        A.RandomCrop(height, width, p=1.0),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(0.4, 0.4, 0.4, 0.05, p=0.8),
        A.ToGray(p=0.1),
        A.GaussianBlur(p=0.2),
    ]


@PRESETS.register()
def resize256(height: int, width: int) -> list[Any]:
    """The diary's Resize(256, 256), before whatever --image_size asks for."""
    return [A.Resize(256, 256, **_NEAREST)]


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


@PRESETS.register()
def resize256_aug(height: int, width: int) -> list[Any]:
    """The diary's Resize(256, 256) and then AUG."""
    return [*resize256(height, width), *aug(height, width)]


@PRESETS.register()
def aug_elastic(height: int, width: int) -> list[Any]:
    """The diary's AUG and ElasticTransform."""
    return [*aug(height, width), ElasticTransform(**_OUTSIDE)]


@PRESETS.register()
def aug_affine_elastic(height: int, width: int) -> list[Any]:
    """The diary's AUG with Transpose, ShiftScaleRotate and ElasticTransform."""
    # As albumentations' ShiftScaleRotate has it, which warns that it is an Affine.
    shift_scale_rotate = A.Affine(
        scale=(0.9, 1.1), translate_percent=(-0.0625, 0.0625), rotate=(-45, 45), balanced_scale=False, p=0.5, **_OUTSIDE
    )
    return [*aug(height, width), A.Transpose(), shift_scale_rotate, ElasticTransform(**_OUTSIDE)]


@PRESETS.register()
def aug_oneof(height: int, width: int) -> list[Any]:
    """The diary's AUG and one of ElasticTransform, GridDropout (of the image; labels stay) and GridDistortion."""
    return [*aug(height, width), A.OneOf([ElasticTransform(**_OUTSIDE), A.GridDropout(), A.GridDistortion(**_OUTSIDE)])]


class Augmenter:
    """Applies transforms to samples, from many threads at once, each sample with its own seed.

    A Compose holds its random state, so every thread has one of its own, reseeded before every sample: the result depends on
    (image, label, seed) alone. Equal and picklable: another process makes the same of it.

    Args:
        augment: a preset's name, a list of transforms or a file (kseg.data.transforms.read_transforms).
        image_size: (height, width) of the result.

    Raises:
        KsegError: one line, with the nearest names where one is unknown.
    """

    def __init__(self, augment: str, image_size: tuple[int, int]):
        from kseg.data.transforms import read_transforms  # which knows the presets

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
        from kseg.data.transforms import to_dict

        return to_dict(self._make())

    def _make(self) -> A.Compose:
        height, width = self.image_size
        resize = A.Resize(height, width, interpolation=cv2.INTER_LINEAR, **_NEAREST)
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
