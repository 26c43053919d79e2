"""What ignore_index and class weights mean, once for every loss.

A pixel whose label is ignore_index counts nowhere. A class weight multiplies the terms of the pixels with that label, or, in
losses of regions, the class's own term; a mean is then the weighted mean. A mean over nothing is 0, and so is its gradient.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from kseg.utils.errors import KsegError


def pixel_weights(label: Any, num_classes: int, ignore_index: int, class_weights: Sequence[float] | None) -> tuple[Any, Any]:
    """Returns (label int32 [B, H, W], 0 where it is ignored; weight float32 [B, H, W] of each pixel, 0 where it is ignored)."""
    label = ops.cast(label, "int32")
    counted = ops.not_equal(label, ignore_index)
    label = ops.where(counted, label, 0)
    if class_weights is None:
        return label, ops.cast(counted, "float32")
    return label, ops.where(counted, ops.take(weights_of(class_weights, num_classes), label, axis=0), 0.0)


def weights_of(class_weights: Sequence[float] | None, num_classes: int) -> Any:
    """Returns float32 [C]: the weights, or ones. Raises KsegError if they are not as many as the classes."""
    if class_weights is None:
        return ops.ones((num_classes,), "float32")
    weights = ops.convert_to_tensor(class_weights, dtype="float32")
    if tuple(weights.shape) != (num_classes,):
        raise KsegError(
            f"class_weights has the shape {tuple(weights.shape)}, the logits have {num_classes} classes; give one each"
        )
    return weights


def one_hot(label: Any, num_classes: int, ignore_index: int) -> tuple[Any, Any]:
    """Returns (bool [B, H, W, C], nowhere true where the label is ignored; counted, bool [B, H, W])."""
    label = ops.cast(label, "int32")
    counted = ops.not_equal(label, ignore_index)
    classes = ops.arange(num_classes, dtype="int32")
    return ops.equal(ops.where(counted, label, -1)[..., None], classes), counted


def weighted_mean(terms: Any, weights: Any, axis: Any = None) -> Any:
    """sum(weights * terms) / sum(weights); 0 where the weights are."""
    total = ops.sum(weights, axis=axis)
    return ops.sum(weights * terms, axis=axis) / ops.where(total > 0, total, 1.0)


def mean_over_images(losses: Any, counted: Any) -> Any:
    """The mean of losses [R] over the rows in which counted, bool [R, ...], is anywhere true."""
    anything = ops.any(ops.reshape(counted, (ops.shape(losses)[0], -1)), axis=1)
    return weighted_mean(losses, ops.cast(anything, "float32"))
