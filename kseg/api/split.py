"""kseg.split: divides a data set at random."""

from typing import Any

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
    with keyword_messages():
        options: dict[str, Any] = {"fraction": fraction, "seed": seed, "group": group}
        return split_part(data, validation=False, **options), split_part(data, validation=True, **options)


def check_dataset(data: Any, name: str) -> None:
    """Raises KsegError unless `data` is a data set with random access. name: the parameter."""
    if isinstance(data, Dataset):
        return
    kind = type(data).__name__
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        how = "open it with kseg.FolderDataset, kseg.CocoDataset or kseg.TfdsDataset"
    elif isinstance(data, tuple) or hasattr(data, "__array__"):
        how = "make it one with kseg.ArrayDataset(images, labels, class_names=[...])"
    elif kind == "DataLoader":
        how = "write its data set as a class with class_names, ignore_index, __len__, load, name and size (kseg.data.Dataset)"
    else:
        how = "a data set has class_names, ignore_index, __len__, load, name and size (kseg.data.Dataset)"
    raise KsegError(f"{name}: a {kind} is no data set; {how}")
