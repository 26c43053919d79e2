"""One confusion matrix over a whole split, in exact integers, and the scores that come from it.

confusion_matrix[t, p] counts the pixels of true class t that were predicted as p; ignored pixels are not counted. A mean
over batches of per-batch mIoU is another, wrong number; nothing here computes it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data.dataset import IGNORE_INDEX

_BASE = 1 << 30  # counts are kept as high * _BASE + low, both int32, because JAX has no int64 by default
_MOST_COMPARED = 24 * 24
"""The most cells for which a GPU is faster comparing each pixel with each (144: 0.15 ms instead of 0.69 for 4 million pixels)."""


def confusion_matrices(label: Any, prediction: Any, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Any:
    """Counts (true, predicted) pairs per image, on any backend, under jit.

    label, prediction: integers [B, H, W]. Returns int32 [B, num_classes, num_classes]. Labels that are ignore_index are not
    counted.
    """
    batch = label.shape[0]
    cells = num_classes * num_classes
    label, prediction = ops.cast(label, "int32"), ops.cast(prediction, "int32")
    cell = ops.where(ops.equal(label, ignore_index), cells, label * num_classes + prediction)
    counts = _count(ops.reshape(cell, (batch, -1)), cells)
    return ops.reshape(counts, (batch, num_classes, num_classes))


def _count(cell: Any, cells: int) -> Any:
    """Returns int32 [B, cells]: how often each of 0 .. cells - 1 is in a row of cell, int32 [B, N] in 0 .. cells."""
    if keras.backend.backend() != "jax" or cells > _MOST_COMPARED:
        return _count_by_adding(cell, cells)
    import jax

    adding, comparing = (functools.partial(count, cells=cells) for count in (_count_by_adding, _count_by_comparing))
    return jax.lax.platform_dependent(cell, cuda=comparing, default=adding)  # a GPU's threads wait for one another to add


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
    """Accumulates the confusion matrix of a split inside the jitted step; its result() is the mean IoU so far.

    Counts are exact up to 2**60 pixels, whatever the batch size. result() is a float32 scalar for progress bars and logs;
    `confusion_matrix()` returns the counts, from which `scores` computes everything in float64.
    update_state takes labels [B, H, W] and logits [B, H, W, num_classes], or predicted classes [B, H, W].
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX, name: str = "mean_iou", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        shape = (num_classes, num_classes)
        self.low = self.add_variable(shape, initializer="zeros", dtype="int32", name="low")
        self.high = self.add_variable(shape, initializer="zeros", dtype="int32", name="high")

    def update_state(self, y_true, y_pred, sample_weight=None):
        prediction = y_pred if len(y_pred.shape) == len(y_true.shape) else ops.argmax(y_pred, axis=-1)
        if len(y_true.shape) != 3 or y_true.shape[0] is None:  # a batch size that is unknown while tracing: one image
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


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. Arrays are float64 [num_classes], nan where they are not defined.

    iou: intersection over union; dice: 2 * intersection / (label pixels + predicted pixels). A class absent from both labels and
    predictions has nan and is left out of the means. precision: the right share of the pixels predicted as the class, nan where
    none is; recall: the found share of those labelled so, nan where none is. mean_class_accuracy: the mean recall.
    frequency_weighted_iou: the IoU's mean by share of labelled pixels. pixel_accuracy: share of counted pixels that are right.
    constant_mean_iou: the mean IoU of predicting the most frequent class everywhere, the floor that any model must beat.
    """

    iou: np.ndarray
    dice: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    pixels: np.ndarray
    mean_iou: float
    mean_dice: float
    mean_precision: float
    mean_class_accuracy: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    constant_mean_iou: float


def scores(confusion_matrix: np.ndarray) -> Scores:
    """Computes all scores from integer counts [num_classes, num_classes] (true, predicted)."""
    matrix = np.asarray(confusion_matrix, "int64")
    intersection, label, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    total = int(matrix.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = intersection / (label + predicted - intersection)
        dice = 2 * intersection / (label + predicted)
        precision, recall = intersection / predicted, intersection / label
    present = label > 0
    constant = label.max(initial=0) / total / present.sum() if total else float("nan")
    return Scores(
        iou=iou,
        dice=dice,
        precision=precision,
        recall=recall,
        pixels=label,
        mean_iou=nanmean(iou),
        mean_dice=nanmean(dice),
        mean_precision=nanmean(precision),
        mean_class_accuracy=nanmean(recall),
        frequency_weighted_iou=float((label[present] * iou[present]).sum() / total) if total else float("nan"),
        pixel_accuracy=float(intersection.sum() / total) if total else float("nan"),
        constant_mean_iou=float(constant),
    )


LEVEL, RESAMPLES = 0.95, 1000
"""What share of the resampled mean IoUs an interval holds, and how many there are."""


def mean_iou_interval(matrices: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap's confidence interval of the mean IoU (Efron 1979): how it varies with the images that were drawn.

    matrices: one confusion matrix an image, integers [N, C, C]. N images are drawn with replacement, RESAMPLES times, each time
    scored from one confusion matrix. Returns the interval that holds LEVEL of those scores, the same for the same seed; nan for
    fewer than two images with counted pixels.
    """
    return _interval(_resampled_means([matrices], seed)[0])


def mean_iou_difference(matrices: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The interval of mean IoU(matrices) - mean IoU(others), two models on the same images, by the paired bootstrap: both are
    scored on the same draws of images, so that what makes images hard for both cancels out.

    matrices, others: integers [N, C, C], row i of both the same image. Where the interval does not hold 0, other images of the
    kind would hardly turn the models' order round. Returns as mean_iou_interval does. Raises ValueError for unequal shapes.
    """
    if np.shape(matrices) != np.shape(others):
        raise ValueError(f"matrices of the same images have one shape, not {np.shape(matrices)} and {np.shape(others)}")
    first, second = _resampled_means([matrices, others], seed)
    return _interval(first - second)


def _resampled_means(models: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """The mean IoUs of each model on RESAMPLES draws of the images, the same draws for all: float64 [models, RESAMPLES]; nan
    where a draw, or fewer than two images, have counted pixels.
    """
    arrays = [np.asarray(matrices, "int64") for matrices in models]
    means = np.full((len(arrays), RESAMPLES), np.nan)
    if min((matrices.sum((1, 2)) > 0).sum() for matrices in arrays) < 2:
        return means
    counts = []
    for matrices in arrays:
        intersection = np.diagonal(matrices, axis1=1, axis2=2)
        counts.append(np.stack([intersection, matrices.sum(2) + matrices.sum(1) - intersection], 1))  # [N, 2, C]
    generator, images = np.random.default_rng(seed), len(arrays[0])
    for draw in range(RESAMPLES):  # one at a time: all draws of a large split at once would fill the memory
        times = np.bincount(generator.integers(0, images, images), minlength=images)
        for model, count in enumerate(counts):
            intersection, union = np.tensordot(times, count, 1)
            with np.errstate(invalid="ignore"):
                means[model, draw] = nanmean(intersection / union)
    return means


def _interval(values: np.ndarray) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def nanmean(values: np.ndarray) -> float:
    """The mean of what is defined; nan if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
