"""kseg.split: divides a data set at random."""

import re
from typing import Any

import numpy as np

from kseg.api.data import check_dataset
from kseg.api.messages import keyword_messages
from kseg.data.dataset import Dataset
from kseg.data.subset import Subset, split_part
from kseg.utils.errors import KsegError


def split(data: Dataset, fraction: float, *, seed: int = 0, group: str | None = None) -> tuple[Subset, Subset]:
    """Divides a data set at random into a training and a validation part, as --val_fraction does.

    The parts depend on the samples' names, the seed and the arguments, not on the order of the samples.

    Args:
        data: a data set, such as FolderDataset.
        fraction: share of the samples for validation, above 0 and below 1.
        seed: seed of the random choice.
        group: regular expression, searched in each name: samples with the same first group (or match) stay together.

    Returns:
        (training part, validation part).

    Raises:
        KsegError: if the data cannot be divided so.
    """
    check_dataset(data, "data")
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise KsegError(f"fraction={fraction!r}: must be more than 0 and less than 1")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise KsegError(f"seed={seed!r}: must be a whole number, 0 or more")
    try:
        re.compile(group or "")
    except re.error as error:
        raise KsegError(f"group={group}: is not a regular expression ({error})") from None
    with keyword_messages():
        options: dict[str, Any] = {"fraction": fraction, "seed": seed, "group": group}
        return split_part(data, validation=False, **options), split_part(data, validation=True, **options)
