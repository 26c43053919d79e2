"""Ignored pixels, class weights and means, the same for every loss.

A pixel whose label is ignore_index does not count. A class weight multiplies the terms of the pixels with that label; in region
losses it multiplies the term of the class. Means are then weighted means. A mean over nothing is 0, and so is its gradient.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from kseg.utils.errors import KsegError

ClassWeights = Sequence[float] | None
"""One weight, 0 or more, for each of C classes; None for equal weights."""


def pixel_weights(label: Any, num_classes: int, ignore_index: int, class_weights: ClassWeights) -> tuple[Any, Any]:
    """Returns (label, weight), [B, H, W]: int32, 0 where ignored; and the float32 weight of each pixel, 0 where ignored."""
    label = ops.cast(label, "int32")
    counted = ops.not_equal(label, ignore_index)
    label = ops.where(counted, label, 0)
    if class_weights is None:
        return label, ops.cast(counted, "float32")
    return label, ops.where(counted, ops.take(weights_of(class_weights, num_classes), label, axis=0), 0.0)


def weights_of(class_weights: ClassWeights, num_classes: int) -> Any:
    """Returns the weights as float32 [C], or ones. Raises KsegError unless there is one weight for each class."""
    if class_weights is None:
        return ops.ones((num_classes,), "float32")
    weights = ops.convert_to_tensor(class_weights, dtype="float32")
    if tuple(weights.shape) != (num_classes,):
        raise KsegError(
            f"class_weights has the shape {tuple(weights.shape)}, the logits have {num_classes} classes; give one each"
        )
    return weights


def one_hot(label: Any, num_classes: int, ignore_index: int) -> tuple[Any, Any]:
    """Returns (one_hot, counted): bool [B, H, W, C], all False where the label is ignored; and bool [B, H, W]."""
    label = ops.cast(label, "int32")
    counted = ops.not_equal(label, ignore_index)
    classes = ops.arange(num_classes, dtype="int32")
    return ops.equal(ops.where(counted, label, -1)[..., None], classes), counted


def weighted_mean(terms: Any, weights: Any, axis: Any = None) -> Any:
    """Returns sum(weights * terms) / sum(weights), and 0 where the weights sum to 0."""
    total = ops.sum(weights, axis=axis)
    return ops.sum(weights * terms, axis=axis) / ops.where(total > 0, total, 1.0)


def mean_over_images(losses: Any, counted: Any) -> Any:
    """Returns the mean of losses [B] over the images with a counted pixel. counted: bool [B, ...]."""
    anything = ops.any(ops.reshape(counted, (ops.shape(losses)[0], -1)), axis=1)
    return weighted_mean(losses, ops.cast(anything, "float32"))
