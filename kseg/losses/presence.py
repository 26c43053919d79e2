"""The loss of a classification head, which says which classes an image has."""

from typing import Any

from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.losses.reduction import mean_over_images, one_hot


def presence(logits: Any, label: Any, *, ignore_index: int = IGNORE_INDEX) -> Any:
    """Returns the binary cross entropy of sigmoid(logits) and the classes of each image's label, a mean over images and classes.

    This is the semantic encoding loss of EncNet (Zhang et al. 2018, arXiv:1803.08904).
    logits: float [B, C]. label: [B, H, W], in 0..C-1 or ignore_index. A class is there if any pixel has it. An image whose pixels
    are all ignored does not count.
    """
    of_class, counted = one_hot(label, logits.shape[-1], ignore_index)
    present = ops.cast(ops.any(of_class, axis=(1, 2)), "float32")
    logits = ops.cast(logits, "float32")
    return mean_over_images(ops.mean(ops.softplus(logits) - present * logits, axis=-1), counted)
