"""Losses on logits [B, H, W, C] and integer labels [B, H, W]."""

from collections.abc import Sequence

import keras
from keras import ops

from kseg.data.dataset import IGNORE_INDEX


@keras.saving.register_keras_serializable("kseg")
class CrossEntropy(keras.losses.SparseCategoricalCrossentropy):
    """Weighted mean cross entropy over the pixels of a batch whose label is not ignore_index; 0 if all are ignored.

    -sum_i w[label_i] log softmax(logits_i)[label_i] / sum_i w[label_i], i over the counted pixels: what torch's
    CrossEntropyLoss(weight=w, ignore_index=..., reduction="mean") computes. Without weights every w is 1.
    y_true: integer labels [B, H, W]. y_pred: logits [B, H, W, C].

    Args:
        ignore_index: label of the pixels that do not count.
        class_weights: a weight, 0 or more, of each of the C classes; None weighs them alike.
    """

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy",
        **kwargs,
    ):
        super().__init__(from_logits=True, ignore_class=ignore_index, name=name, **kwargs)
        self.ignore_index = ignore_index
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]

    def call(self, y_true, y_pred):
        losses = super().call(y_true, y_pred)
        if self.class_weights is None:
            return losses
        label = ops.cast(y_true, "int32")
        counted = ops.not_equal(label, self.ignore_index)
        weights = ops.take(ops.convert_to_tensor(self.class_weights, dtype=losses.dtype), ops.where(counted, label, 0), axis=0)
        weights = ops.where(counted, weights, 0.0)
        total = ops.sum(weights)
        # Keras divides by the number of all pixels here: only super().call's tensor carries the mask that leaves some out.
        pixels = ops.cast(ops.size(losses), losses.dtype)
        return losses * weights * (pixels / ops.where(total > 0, total, 1.0))

    def get_config(self):
        config = super().get_config()
        kept = {k: config[k] for k in ("name", "reduction") if k in config}
        return kept | {"ignore_index": self.ignore_index, "class_weights": self.class_weights}
