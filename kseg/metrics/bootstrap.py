"""Confidence intervals of the mean IoU, by the percentile bootstrap over images (Efron 1979)."""

from collections.abc import Sequence

import numpy as np

from kseg.metrics.scores import nanmean

LEVEL, RESAMPLES = 0.95, 1000
"""Fraction of the resampled mean IoUs within an interval, and how many are drawn."""


def mean_iou_interval(matrices: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the confidence interval (low, high) of the mean IoU, over the choice of images.

    matrices: one confusion matrix per image, integers [N, C, C]. RESAMPLES times, N images are drawn with replacement and scored
    from one confusion matrix. LEVEL of these scores lie in the interval. The same seed gives the same interval. Returns nan for
    fewer than two images with counted pixels.
    """
    return _interval(_resampled_means([matrices], seed)[0])


def mean_iou_difference(matrices: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the interval of mean IoU(matrices) - mean IoU(others), two models on the same images, by the paired bootstrap.

    matrices, others: integers [N, C, C], row i of both for the same image. Both models are scored on the same draws of images,
    so images that are hard for both cancel out. An interval without 0 means: on other images of this kind the better model would
    very likely be the same. Returns nan as mean_iou_interval does. Raises ValueError for unequal shapes.
    """
    if np.shape(matrices) != np.shape(others):
        raise ValueError(f"matrices of the same images have one shape, not {np.shape(matrices)} and {np.shape(others)}")
    first, second = _resampled_means([matrices, others], seed)
    return _interval(first - second)


def _resampled_means(models: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Returns the mean IoUs of each model on RESAMPLES draws of the images, float64 [models, RESAMPLES].

    All models get the same draws. nan for a draw without counted pixels, and if fewer than two images have any.
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
