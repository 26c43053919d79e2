"""Checks the data that Segmenter and kseg.split are given."""

from collections.abc import Sequence
from typing import Any

from kseg.data.dataset import Dataset
from kseg.inference.batches import is_batches
from kseg.utils.errors import KsegError


def check_dataset(data: Any, name: str) -> None:
    """Raises KsegError unless `data` is a data set with random access. name: the parameter."""
    if isinstance(data, Dataset):
        return
    if is_batches(data):
        raise KsegError(f"{name}: batches have no single samples, which this needs; pass a data set, such as kseg.FolderDataset")
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


def check_classes(data: Dataset, class_names: Sequence[str], name: str) -> None:
    """Raises KsegError unless a data set has the classes of a model. name: the parameter."""
    theirs = tuple(data.class_names)
    if len(class_names) != len(theirs):
        raise KsegError(f"{name}: has {len(theirs)} classes, and the model {len(class_names)}; use class_names=data.class_names")
    for our, their in zip(class_names, theirs, strict=True):
        if our != their:
            raise KsegError(f"{name}: has a class {their!r} where the model has {our!r}; use class_names=data.class_names")
