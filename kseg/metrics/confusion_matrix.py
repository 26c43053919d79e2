"""Confusion matrices in exact integers: counted per image, or accumulated over a split by a Keras metric.

confusion_matrix[t, p] is the number of pixels of true class t that were predicted as p. Ignored pixels are not counted. The mean
of per-batch mIoUs is a different, wrong number; kseg never computes it.
"""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data.dataset import IGNORE_INDEX

_BASE = 1 << 30  # a count is high * _BASE + low, both int32, because JAX has no int64 by default
_MAX_COMPARED = 24 * 24
"""Up to so many cells, a GPU counts faster by comparing (144 cells, 4 million pixels: 0.15 ms instead of 0.69)."""


def confusion_matrices(label: Any, prediction: Any, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Any:
    """Counts (true, predicted) pairs per image. Works on any backend and under jit.

    label, prediction: integers [B, H, W]; pixels with label ignore_index are not counted. Returns int32 [B, num_classes,
    num_classes].
    """
    batch = label.shape[0]
    cells = num_classes * num_classes
    label, prediction = ops.cast(label, "int32"), ops.cast(prediction, "int32")
    cell = ops.where(ops.equal(label, ignore_index), cells, label * num_classes + prediction)
    counts = _count(ops.reshape(cell, (batch, -1)), cells)
    return ops.reshape(counts, (batch, num_classes, num_classes))


def _count(cell: Any, cells: int) -> Any:
    """Counts the values 0 .. cells - 1 in each row of cell, int32 [B, N] in 0 .. cells. Returns int32 [B, cells]."""
    if keras.backend.backend() != "jax" or cells > _MAX_COMPARED:
        return _count_by_adding(cell, cells)
    import jax

    adding, comparing = (functools.partial(count, cells=cells) for count in (_count_by_adding, _count_by_comparing))
    return jax.lax.platform_dependent(cell, cuda=comparing, default=adding)  # on a GPU, additions to one cell wait for each other


def _count_by_adding(cell: Any, cells: int) -> Any:
    batch = cell.shape[0]
    first = ops.arange(batch, dtype="int32") * (cells + 1)
    place = ops.reshape(first[:, None] + cell, (-1,))
    counts = ops.segment_sum(ops.ones_like(place), place, num_segments=batch * (cells + 1))
    return ops.reshape(counts, (batch, cells + 1))[:, :cells]


def _count_by_comparing(cell: Any, cells: int) -> Any:
    return ops.sum(ops.cast(cell[:, :, None] == ops.arange(cells, dtype="int32"), "int32"), axis=1)


@keras.saving.register_keras_serializable("kseg")
class ConfusionMatrix(keras.metrics.Metric):
    """Accumulates the confusion matrix of a split inside the jitted step. result() is the mean IoU so far.

    update_state takes labels [B, H, W] and logits [B, H, W, num_classes], or predicted classes [B, H, W]. Counts are exact up to
    2**60 pixels, for any batch size. result() is a float32 scalar for progress bars and logs. confusion_matrix() returns the
    counts; kseg.metrics.scores.scores computes the scores from them in float64.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX, name: str = "mean_iou", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        shape = (num_classes, num_classes)
        self.low = self.add_variable(shape, initializer="zeros", dtype="int32", name="low")
        self.high = self.add_variable(shape, initializer="zeros", dtype="int32", name="high")

    def update_state(self, y_true, y_pred, sample_weight=None):
        prediction = y_pred if len(y_pred.shape) == len(y_true.shape) else ops.argmax(y_pred, axis=-1)
        if len(y_true.shape) != 3 or y_true.shape[0] is None:  # batch size unknown while tracing: as one image
            y_true, prediction = ops.reshape(y_true, (1, -1)), ops.reshape(prediction, (1, -1))
        self.add_counts(ops.sum(confusion_matrices(y_true, prediction, self.num_classes, self.ignore_index), axis=0))

    def add_counts(self, counts: Any) -> None:
        """Adds int32 counts [num_classes, num_classes], each below 2**30."""
        low = self.low + ops.cast(counts, "int32")
        self.high.assign(self.high + low // _BASE)
        self.low.assign(low % _BASE)

    def result(self):
        matrix = ops.cast(self.high, "float32") * float(_BASE) + ops.cast(self.low, "float32")
        intersection = ops.diagonal(matrix)
        union = ops.sum(matrix, axis=0) + ops.sum(matrix, axis=1) - intersection
        present = ops.cast(union > 0, "float32")
        return ops.divide_no_nan(ops.sum(ops.divide_no_nan(intersection, union)), ops.sum(present))

    def confusion_matrix(self) -> np.ndarray:
        """Returns the exact counts so far, int64 [num_classes, num_classes]."""
        high = ops.convert_to_numpy(self.high.value).astype("int64")
        return high * _BASE + ops.convert_to_numpy(self.low.value).astype("int64")

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "ignore_index": self.ignore_index}


@keras.saving.register_keras_serializable("kseg")
class UnlabelledBatches(keras.metrics.Metric):
    """Counts, inside the jitted step, the batches that have no labelled pixel. y_true: integer labels [B, H, W]."""

    def __init__(self, ignore_index: int = IGNORE_INDEX, name: str = "unlabelled_batches", **kwargs):
        super().__init__(name=name, **kwargs)
        self.ignore_index = ignore_index
        self.total = self.add_variable((), initializer="zeros", dtype="int32", name="total")

    def update_state(self, y_true, y_pred, sample_weight=None):
        ignored = ops.all(ops.equal(ops.cast(y_true, "int32"), self.ignore_index))
        self.total.assign(self.total + ops.cast(ignored, "int32"))

    def result(self):
        return ops.cast(self.total, "float32")

    def get_config(self):
        return {**super().get_config(), "ignore_index": self.ignore_index}
