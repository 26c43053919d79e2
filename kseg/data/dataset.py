"""The contract of a data source: random access to images and label maps, without TensorFlow."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

IGNORE_INDEX = 255
"""Label value of pixels that neither train nor count."""


class BadSample(Exception):
    """One sample that cannot be used. `str()` says which file and what is wrong; --on_bad_sample decides what happens."""


@dataclass(frozen=True)
class Sample:
    """One image and its label map.

    image: uint8 [H, W, 3] RGB. label: uint8 [H, W], class indices and IGNORE_INDEX. name: as the data set's own files call it.
    """

    image: np.ndarray
    label: np.ndarray
    name: str


@runtime_checkable
class Dataset(Protocol):
    """What every source provides. `load` may be called from many threads at once and returns the same bytes every time."""

    class_names: tuple[str, ...]
    """Name of each class index; all distinct."""
    ignore_index: int

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample:
        """Reads sample `index`; raises BadSample if its files are not what they should be."""
        ...

    def name(self, index: int) -> str:
        """The sample's name, without reading it."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the sample's image and label map, without reading it."""
        ...
