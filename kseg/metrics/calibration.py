"""Expected calibration error: how far predicted probabilities are from accuracy (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np

BINS = 15


class Calibration:
    """Counts pixels by the probability of their predicted class, in BINS bins of equal width over 0..1.

    pixels: int64 [BINS]. right: int64 [BINS], the pixels predicted correctly. confidence: float64 [BINS], sums of probabilities.
    """

    def __init__(self):
        self.pixels, self.right, self.confidence = np.zeros(BINS, "int64"), np.zeros(BINS, "int64"), np.zeros(BINS)

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Adds N pixels. confidence: floats [N], the probability of the predicted class. right: bool [N], True where correct."""
        place = np.minimum((confidence * BINS).astype("int64"), BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)
        self.confidence += np.bincount(place, weights=confidence, minlength=BINS)

    def error(self) -> float:
        """Returns the mean over pixels of |accuracy - mean confidence| of their bins; nan without pixels."""
        total = self.pixels.sum()
        return float(np.abs(self.right - self.confidence).sum() / total) if total else float("nan")
