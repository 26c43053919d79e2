"""Boundary IoU (Cheng et al. 2021, arXiv:2103.16562): the IoU of the pixels near the classes' outlines."""

import cv2
import numpy as np

from kseg.data.dataset import IGNORE_INDEX

DISTANCE = 0.02
"""Width of the boundary, as a fraction of the image's diagonal."""


def boundary_counts(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, for each class, the pixels in both boundaries and in either. Returns int64 [num_classes, 2]: intersection, union.

    label, prediction: integers [H, W]. A class's boundary is its pixels with a pixel of something else at most d rows and columns
    away. d is DISTANCE times the diagonal, rounded, at least 1. Ignored pixels, and all outside the image, belong to no class.
    """
    counts = np.zeros((num_classes, 2), "int64")
    distance = max(1, round(DISTANCE * float(np.hypot(*label.shape))))
    prediction = np.where(label == IGNORE_INDEX, IGNORE_INDEX, prediction)
    for index in np.union1d(label, prediction):
        if index != IGNORE_INDEX:
            ours, theirs = (_boundary(area == index, distance) for area in (label, prediction))
            counts[index] = (ours & theirs).sum(), (ours | theirs).sum()
    return counts


def _boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Returns the pixels of a mask, bool [H, W], that an erosion by `distance` removes."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), "uint8")
    inside = cv2.erode(mask.astype("uint8"), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inside == 0)
