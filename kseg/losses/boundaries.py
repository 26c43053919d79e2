"""A loss of boundaries, found by max pooling: no distance transform, nothing but the device."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.reduction import mean_over_images, weighted_mean, weights_of

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
    label = ops.cast(label, "int32")
    counted = ops.not_equal(label, ignore_index)
    at_edge = _has_other_label_near(label, counted, num_classes, width)
    axes = (1, 2) if per_image else (0, 1, 2)

    def sums(one):
        """Of a class's p [B, H, W]: sum b(p), sum b(y), sum b(p) n(y), sum b(y) n(p), stacked."""
        index, p = one
        of_y = ops.cast(ops.logical_and(at_edge, ops.equal(label, index)), "float32")
        of_p = ops.where(counted, _pool(1.0 - p, counted, width) - (1.0 - p), 0.0)
        near_y, near_p = _pool(of_y, counted, tolerance), _pool(of_p, counted, tolerance)
        return ops.stack([ops.sum(x, axis=axes) for x in (of_p, of_y, of_p * near_y, of_y * near_p)])

    p = ops.transpose(ops.softmax(ops.cast(logits, "float32"), axis=-1), (3, 0, 1, 2))
    # A class at a time, and its maxima computed again for the gradient, which would else keep many times the size of the logits.
    by_class = ops.moveaxis(ops.map(keras.remat(sums), (ops.arange(num_classes, dtype="int32"), p)), 0, -1)
    predicted, labelled, near_labels, near_predictions = (by_class[i] for i in range(4))
    precision = near_labels / ops.maximum(predicted, _EPSILON)
    recall = near_predictions / ops.maximum(labelled, _EPSILON)
    terms = 1.0 - 2.0 * precision * recall / ops.maximum(precision + recall, _EPSILON)
    present = ops.cast(labelled > 0, "float32")
    losses = weighted_mean(terms, weights_of(class_weights, num_classes) * present, axis=-1)
    return mean_over_images(losses, counted) if per_image else losses


def _has_other_label_near(label: Any, counted: Any, num_classes: int, width: int) -> Any:
    """Whether a pixel within the square, of those that count, has another label: where b(y) is 1 for the label's class."""
    label = ops.cast(label, "float32")
    most, least = _pool(label, counted, width), num_classes - _pool(num_classes - label, counted, width)
    return ops.logical_and(counted, ops.less(least, most))


def _pool(x: Any, counted: Any, side: int) -> Any:
    """The maximum of x [B, H, W], which is 0 or more, over a square around each pixel, of the pixels that count.

    Along one axis, then the other, as maxima of shifted copies: on a CPU, XLA's gradient of a pooling layer is twice as slow.
    """
    x = ops.where(counted, x, -1.0)
    reach = side // 2
    height, width = ops.shape(x)[1:]
    padded = ops.pad(x, ((0, 0), (reach, reach), (0, 0)), constant_values=-1.0)
    x = functools.reduce(ops.maximum, [padded[:, shift : shift + height] for shift in range(side)])
    padded = ops.pad(x, ((0, 0), (0, 0), (reach, reach)), constant_values=-1.0)
    return functools.reduce(ops.maximum, [padded[:, :, shift : shift + width] for shift in range(side)])
