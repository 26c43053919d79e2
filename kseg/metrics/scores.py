"""Scores of a confusion matrix, computed with numpy in float64: IoU, Dice, precision, recall and their means."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores of a split or an image. Arrays are float64 [num_classes], nan where a score is undefined.

    iou: intersection over union. dice: 2 * intersection / (labelled + predicted pixels). Both are nan for a class that is absent
    from labels and predictions; means leave it out.
    precision: fraction of the pixels predicted as the class that are right, nan if there are none.
    recall: fraction of the pixels labelled as the class that are found, nan if there are none.
    pixels: int64, labelled pixels of each class.
    mean_class_accuracy: the mean recall. pixel_accuracy: fraction of counted pixels that are right.
    frequency_weighted_iou: mean of the IoU, weighted by the labelled pixels.
    constant_mean_iou: the mean IoU of predicting the most frequent class everywhere. Any useful model must beat it.
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


def nanmean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not nan. Unlike numpy.nanmean, returns nan without a warning if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
