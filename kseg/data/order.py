"""The order in which a training run sees its samples: a function of (seed, epoch) alone."""

import numpy as np

from kseg.data.dataset import Dataset


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the indices of an epoch's samples, int64 [steps * batch_size]: a new order every epoch (from 0), less what does not
    fill a batch.
    """
    return np.random.default_rng([seed, epoch]).permutation(count)[: count // batch_size * batch_size].astype("int64")


def batch_names(dataset: Dataset, batch_size: int, seed: int, epoch: int, step: int) -> list[str]:
    """Returns the names of the samples of one step; epoch and step count from 0."""
    order = epoch_order(len(dataset), batch_size, seed=seed, epoch=epoch)
    return [dataset.name(index) for index in order[step * batch_size : (step + 1) * batch_size].tolist()]
