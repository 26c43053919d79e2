"""The contract of a data source: images and label maps by index, without TensorFlow."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

IGNORE_INDEX = 255
"""Label value of pixels that neither the loss nor the metrics count."""


class BadSample(Exception):
    """One sample cannot be used. `str()` names the file and what is wrong; --on_bad_sample decides what happens."""


@dataclass(frozen=True)
class Sample:
    """One image and its label map.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        label: uint8 [H, W], class indices, and IGNORE_INDEX where there is none.
        name: the image's name in the data set.
    """

    image: np.ndarray
    label: np.ndarray
    name: str


@runtime_checkable
class Dataset(Protocol):
    """One split of a data set: random access to its samples.

    Threads and processes call `load` at the same time, so a data set can be pickled, and a sample has the same bytes every time.

    A data set may also have
        warnings: lines to show the user when the split is opened.
        labelled: False if the split has images but no annotations.
        load_image(index), load_label(index): the two parts of `load`, which --cache needs.
        label_key: a string that changes with the label maps, which --cache=disk needs.
        image_bytes(index): the image file's content, which kseg.write_shards copies as it is.
        overlap(index): number of pixels under several annotations, for kseg.inspect_data.
        image_ids, category_ids: COCO's ids of images and classes, for results in COCO's format.
        reading: what was decided about the split (kseg.data.reading.Reading).
        notes(index): what the user should know of a sample that was loaded, such as a band that was left out; a list of strings.
        left_out: a line for each annotation that was left out.
        elsewhere(index): where an image that is missing lies instead, or None.
        label_values(index): the different values of the label image as stored, before the label map, an array; and
        label_map: what they mean (kseg.data.label_map.LabelMap). Both are for kseg.data.label_values.
    """

    class_names: tuple[str, ...]
    """Name of each class index; all distinct."""
    ignore_index: int
    """IGNORE_INDEX."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample:
        """Reads sample `index`. Raises BadSample if it cannot be used."""
        ...

    def name(self, index: int) -> str:
        """The sample's name, without reading the sample."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the sample's image and label map, without decoding them."""
        ...
