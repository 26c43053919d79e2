"""Losses that are weighted means over pixels: cross entropy, focal, and cross entropy over the hardest pixels.

All take logits [B, H, W, C] of any float dtype and integer labels [B, H, W] in 0..C-1 or ignore_index, compute in float32, and
return a float32 scalar. They are pure functions of keras.ops: on JAX arrays they jit, differentiate and vmap. What ignore_index
and class_weights mean stands in kseg.losses.reduction.
"""

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.reduction import pixel_weights, weighted_mean


def cross_entropy(
    logits: Any,
    label: Any,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | None = None,
) -> Any:
    """Weighted mean of (1 - s) * -log p[label] + s * mean_c(-log p[c]), p = softmax(logits), s = label_smoothing.

    torch's CrossEntropyLoss(weight, ignore_index, label_smoothing), except that with both weights and smoothing torch weighs each
    class of the smoothed part by itself; here the pixel is weighed as a whole, by its label.
    """
    return weighted_mean(*cross_entropy_terms(logits, label, label_smoothing, ignore_index, class_weights))


def cross_entropy_terms(
    logits: Any, label: Any, label_smoothing: float, ignore_index: int, class_weights: Sequence[float] | None
) -> tuple[Any, Any]:
    """Returns (terms, weights), float32 [B, H, W], of which cross_entropy is the weighted mean."""
    label, weights = pixel_weights(label, logits.shape[-1], ignore_index, class_weights)
    log_p = _log_softmax(logits)
    return _smoothed(log_p, _surprise(log_p, label), label_smoothing), weights


def focal(
    logits: Any,
    label: Any,
    *,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | None = None,
) -> Any:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002) over a softmax: weighted mean of (1 - p[label])^gamma * -log p[label].

    The paper's own is over sigmoids; of two classes with logits (0, x) this is its loss of x. gamma: 0 is cross entropy.
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
    class_weights: Sequence[float] | None = None,
) -> Any:
    """Cross entropy over the hardest pixels of the batch: online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540),
    by pixels (Wu et al. 2016, arXiv:1605.06885).

    The hardest are those whose labels have the lowest probability: the share `keep` of the pixels that count (rounded up), and
    beside them all whose label has a probability below `threshold`. Pixels that tie for the last places share them. Pixels of a
    class that weighs 0 take no place.
    """
    label, weights = pixel_weights(label, logits.shape[-1], ignore_index, class_weights)
    log_p = _log_softmax(logits)
    surprise = _surprise(log_p, label)
    places = _shares_of_places(ops.stop_gradient(surprise), weights > 0, keep)
    if threshold > 0:
        places = ops.maximum(places, ops.cast(ops.stop_gradient(surprise) > -math.log(threshold), "float32"))
    return weighted_mean(_smoothed(log_p, surprise, label_smoothing), weights * places)


def _shares_of_places(surprise: Any, counted: Any, keep: float) -> Any:
    """float32 [B, H, W]: 1 for the ceil(keep * n) most surprising of the n counted pixels, 0 for the others, and for those that
    tie for the last places what is left, in equal parts.
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
    """-log p[label], [B, H, W]. By comparison, not by gathering: its gradient is then no scatter, and XLA fuses it."""
    chosen = ops.equal(label[..., None], ops.arange(log_p.shape[-1], dtype="int32"))
    return -ops.sum(ops.where(chosen, log_p, 0.0), axis=-1)


def _smoothed(log_p: Any, surprise: Any, label_smoothing: float) -> Any:
    if not label_smoothing:
        return surprise
    return (1 - label_smoothing) * surprise - label_smoothing * ops.mean(log_p, axis=-1)
