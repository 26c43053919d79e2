"""Pixelwise losses, weighted means over pixels: cross entropy, focal, and online hard example mining (OHEM).

All take logits [B, H, W, C] of any float dtype and integer labels [B, H, W] in 0..C-1 or ignore_index, compute in float32, and
return a float32 scalar. They are pure functions of keras.ops: JAX can jit, differentiate and vmap them. kseg.losses.reduction
defines ignore_index and class_weights.
"""

import math
from typing import Any

from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.reduction import ClassWeights, pixel_weights, weighted_mean


def cross_entropy(
    logits: Any,
    label: Any,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """Weighted mean of (1 - s) * -log p[label] + s * mean_c(-log p[c]), p = softmax(logits), s = label_smoothing.

    Equals torch's CrossEntropyLoss(weight, ignore_index, label_smoothing), except with both weights and smoothing: torch weights
    each class of the smoothed part separately, here the weight of the label applies to the whole pixel.
    """
    return weighted_mean(*cross_entropy_terms(logits, label, label_smoothing, ignore_index, class_weights))


def cross_entropy_terms(
    logits: Any, label: Any, label_smoothing: float, ignore_index: int, class_weights: ClassWeights
) -> tuple[Any, Any]:
    """Returns (terms, weights), float32 [B, H, W]; cross_entropy is their weighted mean."""
    label, weights = pixel_weights(label, logits.shape[-1], ignore_index, class_weights)
    log_p = _log_softmax(logits)
    return _smoothed(log_p, _surprise(log_p, label), label_smoothing), weights


def focal(
    logits: Any,
    label: Any,
    *,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002) over a softmax: weighted mean of (1 - p[label])^gamma * -log p[label].

    gamma: 0 gives cross entropy. The paper uses sigmoids; with two classes and logits (0, x) this equals the paper's loss of x.
    """
    label, weights = pixel_weights(label, logits.shape[-1], ignore_index, class_weights)
    surprise = _surprise(_log_softmax(logits), label)
    # 1 - p without cancellation. Below gamma 1 the power has no derivative at 0, which a confident pixel reaches.
    missing = ops.maximum(-ops.expm1(-surprise), 1e-7)
    return weighted_mean(ops.power(missing, gamma) * surprise, weights)


def ohem(
    logits: Any,
    label: Any,
    *,
    keep: float = 0.25,
    threshold: float = 0.0,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
    class_weights: ClassWeights = None,
) -> Any:
    """Cross entropy over the hardest pixels of the batch: online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540)
    for pixels (Wu et al. 2016, arXiv:1605.06885).

    The hardest pixels have the lowest probability of their label. Kept are a fraction `keep` of the counted pixels, rounded up,
    and every pixel with a probability below `threshold`. Pixels that tie for the last places share them in equal parts. Pixels
    of a class with weight 0 do not count.
    """
    label, weights = pixel_weights(label, logits.shape[-1], ignore_index, class_weights)
    log_p = _log_softmax(logits)
    surprise = _surprise(log_p, label)
    places = _shares_of_places(ops.stop_gradient(surprise), weights > 0, keep)
    if threshold > 0:
        places = ops.maximum(places, ops.cast(ops.stop_gradient(surprise) > -math.log(threshold), "float32"))
    return weighted_mean(_smoothed(log_p, surprise, label_smoothing), weights * places)


def _shares_of_places(surprise: Any, counted: Any, keep: float) -> Any:
    """Returns float32 [B, H, W]: 1 for the ceil(keep * n) pixels with the highest cross entropy of the n counted ones, else 0.

    Pixels that tie for the last places get equal fractions of what is left.
    """
    surprise = ops.where(counted, surprise, -1.0)  # behind every pixel that counts
    size = ops.size(surprise)
    # A millionth less, because 0.1 * 30 is more than 3 in float32 and would become 4.
    places = ops.ceil(keep * ops.cast(ops.sum(ops.cast(counted, "int32")), "float32") * (1 - 1e-6))
    in_order = ops.sort(ops.reshape(surprise, (-1,)))
    last = ops.take(in_order, ops.clip(size - ops.cast(places, "int32"), 0, size - 1))
    above = ops.cast(surprise > last, "float32")
    tied = ops.cast(ops.equal(surprise, last), "float32")
    return above + tied * (places - ops.sum(above)) / ops.maximum(ops.sum(tied), 1.0)


def _log_softmax(logits: Any) -> Any:
    return ops.log_softmax(ops.cast(logits, "float32"), axis=-1)


def _surprise(log_p: Any, label: Any) -> Any:
    """Returns -log p[label], [B, H, W]. Compares instead of gathering: the gradient needs no scatter, and XLA fuses it."""
    chosen = ops.equal(label[..., None], ops.arange(log_p.shape[-1], dtype="int32"))
    return -ops.sum(ops.where(chosen, log_p, 0.0), axis=-1)


def _smoothed(log_p: Any, surprise: Any, label_smoothing: float) -> Any:
    if not label_smoothing:
        return surprise
    return (1 - label_smoothing) * surprise - label_smoothing * ops.mean(log_p, axis=-1)
