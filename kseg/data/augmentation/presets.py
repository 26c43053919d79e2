"""Augmentation presets: functions from the model's input size to a list of albumentations transforms."""

from typing import Any

import albumentations as A
import cv2

from kseg.data.augmentation.elastic import ElasticTransform
from kseg.data.dataset import IGNORE_INDEX
from kseg.utils.registry import Registry

PRESETS = Registry("augmentation")

NEAREST = {"mask_interpolation": cv2.INTER_NEAREST_EXACT}
"""For resizing labels: nearest neighbour at half-pixel centres. Warps use INTER_NEAREST, the only one in OpenCV's remap."""

_OUTSIDE = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}  # for pixels from outside the image


@PRESETS.register()
def none(height: int, width: int) -> list[Any]:
    """No augmentation: the final resize only."""
    return []


@PRESETS.register()
def light(height: int, width: int) -> list[Any]:
    """Random crops of a quarter to all of the image, horizontal flips, mild colour jitter."""
    aspect = width / height
    crop = A.RandomResizedCrop(size=(height, width), scale=(0.25, 1.0), ratio=(0.8 * aspect, 1.25 * aspect), **NEAREST)
    return [crop, A.HorizontalFlip(p=0.5), A.ColorJitter(0.3, 0.3, 0.3, 0.03, p=0.8)]


@PRESETS.register()
def strong(height: int, width: int) -> list[Any]:
    """Scales of 0.5 to 2 with random crops, as common for large data sets; horizontal flips, strong colour jitter, some grey or
    blurred images.
    """
    return [
        A.Resize(2 * height, 2 * width, **NEAREST),  # enlarged first, so that zooming in keeps the file's detail
        A.RandomScale((-0.75, 0.0), p=1.0, **NEAREST),
        A.PadIfNeeded(height, width, position="random", p=1.0, **_OUTSIDE),
        A.RandomCrop(height, width, p=1.0),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(0.4, 0.4, 0.4, 0.05, p=0.8),
        A.ToGray(p=0.1),
        A.GaussianBlur(p=0.2),
    ]


@PRESETS.register()
def resize256(height: int, width: int) -> list[Any]:
    """Resize(256, 256) of the reference experiments, before the resize to --image_size."""
    return [A.Resize(256, 256, **NEAREST)]


@PRESETS.register()
def aug(height: int, width: int) -> list[Any]:
    """AUG of the reference experiments: flips, quarter turns, motion and Gaussian blur, optical distortion, with albumentations'
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
    """Resize(256, 256) and then AUG of the reference experiments."""
    return [*resize256(height, width), *aug(height, width)]


@PRESETS.register()
def aug_elastic(height: int, width: int) -> list[Any]:
    """AUG of the reference experiments and ElasticTransform."""
    return [*aug(height, width), ElasticTransform(**_OUTSIDE)]


@PRESETS.register()
def aug_affine_elastic(height: int, width: int) -> list[Any]:
    """AUG of the reference experiments with Transpose, ShiftScaleRotate and ElasticTransform."""
    # An Affine with ShiftScaleRotate's defaults: albumentations' ShiftScaleRotate warns that it is one.
    shift_scale_rotate = A.Affine(
        scale=(0.9, 1.1), translate_percent=(-0.0625, 0.0625), rotate=(-45, 45), balanced_scale=False, p=0.5, **_OUTSIDE
    )
    return [*aug(height, width), A.Transpose(), shift_scale_rotate, ElasticTransform(**_OUTSIDE)]


@PRESETS.register()
def aug_oneof(height: int, width: int) -> list[Any]:
    """AUG of the reference experiments and one of ElasticTransform, GridDropout (of the image only) and GridDistortion."""
    return [*aug(height, width), A.OneOf([ElasticTransform(**_OUTSIDE), A.GridDropout(), A.GridDistortion(**_OUTSIDE)])]
