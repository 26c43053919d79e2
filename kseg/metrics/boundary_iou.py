"""Boundary IoU (Cheng et al. 2021, arXiv:2103.16562): the IoU of the pixels near the classes' outlines."""

import cv2
import numpy as np

from kseg.data.dataset import IGNORE_INDEX

DISTANCE = 0.02
"""How near, as a part of the image's diagonal."""


def boundary_counts(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, for each class, the pixels in both boundaries and those in either.

    label, prediction: integers [H, W]. A class's boundary is its pixels with a pixel of anything else at most d rows and columns
    away, d being DISTANCE times the diagonal, rounded, at least 1. Ignored pixels belong to no class, and what is outside of
    the image does not either. Returns int64 [num_classes, 2]: intersection and union.
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
    """The pixels of a mask, bool [H, W], that an erosion by `distance` takes away."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), "uint8")
    inside = cv2.erode(mask.astype("uint8"), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inside == 0)
