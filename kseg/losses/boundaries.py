"""A loss of boundaries, found by max pooling: no distance transform, nothing but the device."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.counting import mean_over_images, one_hot, weighted_mean, weights_of

_EPSILON = 1e-7


def boundary(
    logits: Any,
    label: Any,
    *,
    width: int = 3,
    tolerance: int = 5,
    per_image: bool = False,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | None = None,
) -> Any:
    """1 - F1 of the classes' boundaries (Bokhovkin and Burnaev 2019, arXiv:1905.07852).

    Of a map m (p = softmax(logits), or y = [label = class]), the boundary is b(m) = pool(1 - m, width) - (1 - m), and what is
    near it is n(m) = pool(b(m), tolerance), pool being the maximum over a square of that side. P = sum b(p) n(y) / sum b(p),
    R = sum b(y) n(p) / sum b(y), and the class's term is 1 - 2 PR / (P + R).

    Arguments and result are those of the losses in kseg.losses.regions. The weighted mean over the classes that have a boundary
    in the labels. An ignored pixel is as outside the picture: no boundary runs along it. The loss is blind far from boundaries:
    add it to another, as the paper does. width, tolerance: odd, in pixels.
    """
    num_classes = logits.shape[-1]
    target, counted = one_hot(label, num_classes, ignore_index)
    y, mask = ops.cast(target, "float32"), ops.cast(counted, "float32")[..., None]
    p = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    of_p, of_y = (_boundary(x, mask, width) for x in (p, y))
    near_p, near_y = (_pool(x, tolerance) for x in (of_p, of_y))
    axes = (1, 2) if per_image else (0, 1, 2)
    predicted, labelled = ops.sum(of_p, axis=axes), ops.sum(of_y, axis=axes)
    precision = ops.sum(of_p * near_y, axis=axes) / ops.maximum(predicted, _EPSILON)
    recall = ops.sum(of_y * near_p, axis=axes) / ops.maximum(labelled, _EPSILON)
    terms = 1.0 - 2.0 * precision * recall / ops.maximum(precision + recall, _EPSILON)
    present = ops.cast(labelled > 0, "float32")
    losses = weighted_mean(terms, weights_of(class_weights, num_classes) * present, axis=-1)
    return mean_over_images(losses, counted) if per_image else losses


def _boundary(x: Any, mask: Any, width: int) -> Any:
    """Where 1 - x is less than somewhere near. mask: 0 for ignored pixels, which are never the maximum and have no boundary."""
    outside = (1.0 - x) * mask
    return (_pool(outside, width) - outside) * mask


def _pool(x: Any, side: int) -> Any:
    return ops.max_pool(x, side, strides=1, padding="same", data_format="channels_last")
