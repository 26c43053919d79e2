"""Region losses, means over classes of an overlap: Dice, Jaccard, Tversky and Lovasz-softmax.

All take logits [B, H, W, C] of any float dtype and integer labels [B, H, W] in 0..C-1 or ignore_index, compute in float32, and
return a float32 scalar. They are pure functions, like those of kseg.losses.pixelwise. The overlap is computed over the whole
batch. With per_image it is computed for each image, and the losses are averaged over the images with a counted pixel.
"""

from typing import Any

from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.reduction import ClassWeights, mean_over_images, one_hot, weighted_mean, weights_of

_EPSILON = 1e-7  # lower bound of a denominator, as in smp


def dice(
    logits: Any,
    label: Any,
    *,
    smooth: float = 0.0,
    log: bool = False,
    per_image: bool = False,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """1 - 2 TP / (2 TP + FP + FN) (Milletari et al. 2016, arXiv:1606.04797, without squares): tversky, alpha = beta = 1/2."""
    return tversky(
        logits, label, alpha=0.5, beta=0.5, smooth=smooth, log=log, per_image=per_image, ignore_index=ignore_index,
        class_weights=class_weights,
    )  # fmt: skip


def jaccard(
    logits: Any,
    label: Any,
    *,
    smooth: float = 0.0,
    log: bool = False,
    per_image: bool = False,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """1 - TP / (TP + FP + FN), the soft IoU (Rahman and Wang 2016): tversky with alpha = beta = 1."""
    return tversky(
        logits, label, alpha=1.0, beta=1.0, smooth=smooth, log=log, per_image=per_image, ignore_index=ignore_index,
        class_weights=class_weights,
    )  # fmt: skip


def tversky(
    logits: Any,
    label: Any,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 0.0,
    log: bool = False,
    per_image: bool = False,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth) of each class (Salehi et al. 2017, arXiv:1706.05721), as in smp.

    TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y over the counted pixels, p = softmax(logits), y = [label = class].
    The loss is sum_c w_c loss_c / sum_c w_c. A class without labels contributes a loss of 0 and its weight, as in smp.
    log: use -log(score) instead of 1 - score. gamma: exponent of the mean over the classes.
    """
    target, counted = one_hot(label, logits.shape[-1], ignore_index)
    p = ops.where(counted[..., None], ops.softmax(ops.cast(logits, "float32"), axis=-1), 0.0)
    axes = (1, 2) if per_image else (0, 1, 2)
    both = ops.sum(ops.where(target, p, 0.0), axis=axes)
    predicted, labelled = ops.sum(p, axis=axes), ops.sum(ops.cast(target, "float32"), axis=axes)
    denominator = both + alpha * (predicted - both) + beta * (labelled - both) + smooth
    score = (both + smooth) / ops.maximum(denominator, _EPSILON)
    terms = -ops.log(ops.maximum(score, _EPSILON)) if log else 1.0 - score
    terms = ops.where(labelled > 0, terms, 0.0)
    losses = weighted_mean(terms, weights_of(class_weights, logits.shape[-1]) * ops.ones_like(terms), axis=-1)
    if gamma != 1:  # below 1 the power has no derivative at 0
        losses = ops.where(losses > 0, ops.power(ops.where(losses > 0, losses, 1.0), gamma), 0.0)
    return mean_over_images(losses, counted) if per_image else losses


def lovasz(
    logits: Any,
    label: Any,
    *,
    per_image: bool = False,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """Lovasz-softmax (Berman et al. 2018, arXiv:1705.08790): the convex extension of 1 - IoU to errors |y - softmax(logits)|.

    Returns the weighted mean over the classes in the labels, of the batch or of each image. Sorts the errors of one class at a
    time. The order of the errors counts as constant in the gradient, as in the paper.
    """
    num_classes = logits.shape[-1]
    rows = ops.shape(logits)[0] if per_image else 1
    p = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    p = ops.reshape(ops.transpose(p, (3, 0, 1, 2)), (num_classes, rows, -1))
    label = ops.reshape(ops.cast(label, "int32"), (rows, -1))
    counted = ops.not_equal(label, ignore_index)
    classes = ops.arange(num_classes, dtype="int32")
    slopes = ops.map(lambda one: _lovasz_slopes(one[0], one[1], label, counted), (classes, ops.stop_gradient(p)))
    inside = ops.logical_and(counted, ops.equal(label, classes[:, None, None]))
    terms = ops.transpose(ops.sum(slopes * ops.where(inside, 1.0 - p, p), axis=-1))
    present = ops.transpose(ops.cast(ops.any(inside, axis=-1), "float32"))
    losses = weighted_mean(terms, weights_of(class_weights, num_classes) * present, axis=-1)
    return mean_over_images(losses, counted)


def _lovasz_slopes(index: Any, p: Any, label: Any, counted: Any) -> Any:
    """Returns the extension's derivative by the error of each pixel for one class, float32 [R, N]; 0 for ignored pixels.

    It is the increase of 1 - IoU as pixels become wrong in the order of falling errors: 1 / union for a pixel of the class,
    intersection / (union * union before) for another. The paper subtracts neighbouring values of 1 - IoU instead. Near 1
    float32 cannot resolve their difference for a million pixels.
    """
    rows, size = ops.shape(p)
    inside = ops.logical_and(counted, ops.equal(label, index))
    outside = ops.logical_and(counted, ops.logical_not(inside))
    error = ops.where(inside, 1.0 - p, ops.where(outside, p, 0.0))
    order = ops.cast(ops.argsort(-error, axis=-1), "int32")
    inside, outside = (ops.cast(ops.take_along_axis(x, order, axis=-1), "int32") for x in (inside, outside))
    pixels = ops.sum(inside, axis=-1, keepdims=True)
    intersection = ops.cast(pixels - ops.cumsum(inside, axis=-1), "float32")
    union_before = ops.cast(ops.maximum(pixels + ops.cumsum(outside, axis=-1) - outside, 1), "float32")
    gained = ops.where(
        outside > 0, intersection / (union_before * (union_before + 1.0)), ops.cast(inside, "float32") / union_before
    )
    back = ops.reshape(order + size * ops.arange(rows, dtype="int32")[:, None], (-1, 1))
    flat = ops.scatter_update(ops.zeros((rows * size,), "float32"), back, ops.reshape(gained, (-1,)))
    return ops.reshape(flat, (rows, size))
