"""A boundary loss. Boundaries are found by max pooling on the device, without a distance transform."""

import functools
from typing import Any

import keras
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.reduction import ClassWeights, mean_over_images, weighted_mean, weights_of

_EPSILON = 1e-7


def boundary(
    logits: Any,
    label: Any,
    *,
    width: int = 3,
    tolerance: int = 5,
    per_image: bool = False,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """1 - F1 of the classes' boundaries (Bokhovkin and Burnaev 2019, arXiv:1905.07852).

    The boundary of a map m (p = softmax(logits), or y = [label = class]) is b(m) = pool(1 - m, width) - (1 - m). The pixels near
    it are n(m) = pool(b(m), tolerance). pool(., s) is the maximum over an s x s square. With P = sum b(p) n(y) / sum b(p) and
    R = sum b(y) n(p) / sum b(y), the class's term is 1 - 2 PR / (P + R).

    Arguments and result are as in kseg.losses.regions. width, tolerance: odd, in pixels. Returns the weighted mean over the
    classes with a boundary in the labels. Ignored pixels count as outside the image: no boundary runs along them. The gradient
    vanishes far from boundaries, so add the loss to another one, as the paper does.
    """
    num_classes = logits.shape[-1]
    label = ops.cast(label, "int32")
    counted = ops.not_equal(label, ignore_index)
    at_edge = _has_other_label_near(label, counted, num_classes, width)
    axes = (1, 2) if per_image else (0, 1, 2)

    def sums(one):
        """Returns sum b(p), sum b(y), sum b(p) n(y) and sum b(y) n(p), stacked. one: a class and its p [B, H, W]."""
        index, p = one
        of_y = ops.cast(ops.logical_and(at_edge, ops.equal(label, index)), "float32")
        of_p = ops.where(counted, _pool(1.0 - p, counted, width) - (1.0 - p), 0.0)
        near_y, near_p = _pool(of_y, counted, tolerance), _pool(of_p, counted, tolerance)
        return ops.stack([ops.sum(x, axis=axes) for x in (of_p, of_y, of_p * near_y, of_y * near_p)])

    p = ops.transpose(ops.softmax(ops.cast(logits, "float32"), axis=-1), (3, 0, 1, 2))
    # One class at a time, with rematerialised maxima: otherwise the gradient would keep many times the size of the logits.
    by_class = ops.moveaxis(ops.map(keras.remat(sums), (ops.arange(num_classes, dtype="int32"), p)), 0, -1)
    predicted, labelled, near_labels, near_predictions = (by_class[i] for i in range(4))
    precision = near_labels / ops.maximum(predicted, _EPSILON)
    recall = near_predictions / ops.maximum(labelled, _EPSILON)
    terms = 1.0 - 2.0 * precision * recall / ops.maximum(precision + recall, _EPSILON)
    present = ops.cast(labelled > 0, "float32")
    losses = weighted_mean(terms, weights_of(class_weights, num_classes) * present, axis=-1)
    return mean_over_images(losses, counted) if per_image else losses


def _has_other_label_near(label: Any, counted: Any, num_classes: int, width: int) -> Any:
    """Returns bool [B, H, W]: a counted pixel in the square has another label. There b(y) is 1 for the label's class."""
    label = ops.cast(label, "float32")
    most, least = _pool(label, counted, width), num_classes - _pool(num_classes - label, counted, width)
    return ops.logical_and(counted, ops.less(least, most))


def _pool(x: Any, counted: Any, side: int) -> Any:
    """Returns the maximum of x [B, H, W], 0 or more, over the counted pixels of a square around each pixel.

    Takes maxima of shifted copies, along one axis, then the other: on a CPU, XLA's gradient of a pooling layer is half as fast.
    """
    x = ops.where(counted, x, -1.0)
    reach = side // 2
    height, width = ops.shape(x)[1:]
    padded = ops.pad(x, ((0, 0), (reach, reach), (0, 0)), constant_values=-1.0)
    x = functools.reduce(ops.maximum, [padded[:, shift : shift + height] for shift in range(side)])
    padded = ops.pad(x, ((0, 0), (0, 0), (reach, reach)), constant_values=-1.0)
    return functools.reduce(ops.maximum, [padded[:, :, shift : shift + width] for shift in range(side)])
