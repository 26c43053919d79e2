"""Whether a model's probabilities mean what they say: the expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np

BINS = 15


class Calibration:
    """Counts pixels by the probability of their predicted class, in BINS bins of equal width over 0..1.

    pixels, right: int64 [BINS], how many there are and how many of them are predicted rightly; confidence: float64 [BINS], the
    sum of their probabilities.
    """

    def __init__(self):
        self.pixels, self.right, self.confidence = np.zeros(BINS, "int64"), np.zeros(BINS, "int64"), np.zeros(BINS)

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Counts pixels: the probability of each one's predicted class, floats [N], and whether it is the right one, bool [N]."""
        place = np.minimum((confidence * BINS).astype("int64"), BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)
        self.confidence += np.bincount(place, weights=confidence, minlength=BINS)

    def error(self) -> float:
        """The expected calibration error: the mean over pixels of |accuracy - mean confidence| of their bins; nan without any."""
        total = self.pixels.sum()
        return float(np.abs(self.right - self.confidence).sum() / total) if total else float("nan")
