"""Losses on logits [B, H, W, C] and integer labels [B, H, W]."""

import keras

from kseg.data.dataset import IGNORE_INDEX


@keras.saving.register_keras_serializable("kseg")
class CrossEntropy(keras.losses.SparseCategoricalCrossentropy):
    """Mean cross entropy over the pixels of a batch whose label is not ignore_index; 0 if all are ignored.

    -1/N sum_i log softmax(logits_i)[label_i], N the number of counted pixels.
    y_true: integer labels [B, H, W]. y_pred: logits [B, H, W, C].
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, name: str = "cross_entropy", **kwargs):
        super().__init__(from_logits=True, ignore_class=ignore_index, name=name, **kwargs)
        self.ignore_index = ignore_index

    def get_config(self):
        config = super().get_config()
        return {k: config[k] for k in ("name", "reduction") if k in config} | {"ignore_index": self.ignore_index}
