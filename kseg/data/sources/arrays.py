"""Data sets of arrays in memory, or mapped into memory (numpy.memmap)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.label_map import IGNORE, build_label_map, check_class_names
from kseg.data.label_values import IN_ARRAYS
from kseg.utils.errors import KsegError


class ArrayDataset:
    """Images and label maps as arrays, as a kseg.data.dataset.Dataset.

    Worker processes share the arrays' memory (kseg.data.loading.shared_arrays). A numpy.memmap is not read before it is used.

    Args:
        images: uint8 [N, H, W, 3], RGB in 0..255; or a list of N arrays [H, W, 3] of any sizes.
        labels: integers [N, H, W], or a list of N arrays [H, W]: class indices, and ignore_index for pixels that do not count.
        class_names: the name of each class index.
        names: a name for each sample, for messages and kseg.split; by default its place, "000000".
        ignore_index: the value of pixels that do not count, by default 255. Samples have 255 in its place.

    Raises:
        KsegError: for arrays of the wrong rank, dtype, length or size. A label beyond the classes makes its sample bad: `load`
            raises BadSample.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        *,
        class_names: Sequence[str],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
    ):
        self.class_names, self.ignore_index = check_class_names(class_names), IGNORE_INDEX
        self._ignored = IGNORE_INDEX if ignore_index is None else ignore_index
        void = {} if ignore_index is None or len(self.class_names) > IGNORE_INDEX else {IGNORE_INDEX: IGNORE}
        self.label_map = build_label_map(dict(enumerate(self.class_names)) | void, IN_ARRAYS)
        self._images, self._labels = _arrays(images, "images"), _arrays(labels, "labels")
        if not (len(self._images) and len(self._labels)):
            raise KsegError("images or labels are empty; a data set has at least one image")
        stacked = isinstance(self._images, np.ndarray) and isinstance(self._labels, np.ndarray)
        for index in range(1 if stacked else min(len(self._images), len(self._labels))):
            _check(self._images[index], self._labels[index], f"images[{index}]", f"labels[{index}]")
        if len(self._images) != len(self._labels):
            raise KsegError(
                f"there are {len(self._images)} images and {len(self._labels)} labels; each image needs one label map"
            )
        if names is not None and len(names) != len(self._images):
            raise KsegError(f"there are {len(self._images)} images and {len(names)} names; each image needs one")
        self._names = None if names is None else tuple(map(str, names))

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"{index:06d}" if self._names is None else self._names[index]

    def size(self, index: int) -> tuple[int, int]:
        height, width = self._labels[index].shape
        return height, width

    def load(self, index: int) -> Sample:
        """Returns a copy of sample `index`. Raises BadSample for a label that is no class."""
        index = range(len(self))[index]  # raises IndexError beyond the end; a negative index counts from it
        return Sample(self.load_image(index), self.load_label(index), self.name(index))

    def load_image(self, index: int) -> np.ndarray:
        """Returns a copy of the image, uint8 [H, W, 3]."""
        return np.array(self._images[index])

    def load_label(self, index: int) -> np.ndarray:
        """Returns a copy of the label map, uint8 [H, W]. Raises BadSample."""
        label = np.asarray(self._labels[index])
        ignored = label == self._ignored
        wrong = ~ignored & ((label < 0) | (label >= len(self.class_names)))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise BadSample(
                f"labels[{index}] ({self.name(index)}): the pixel in row {row}, column {column} has the value "
                f"{label[row, column]}; class_names has 0 to {len(self.class_names) - 1}, and ignore_index is {self._ignored}."
            )
        return np.where(ignored, IGNORE_INDEX, label).astype("uint8")

    def label_values(self, index: int) -> np.ndarray:
        """The different values of the label map as given."""
        return np.unique(self._labels[index])


def _arrays(values: Any, what: str) -> "np.ndarray | list[np.ndarray]":
    """Returns one array [N, ...], or a list of arrays. A memmap stays one."""
    if isinstance(values, (list, tuple)):
        return [value if isinstance(value, np.ndarray) else np.asarray(value) for value in values]
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype == object and array.ndim == 1:  # NumPy's way to hold arrays of different sizes
        return _arrays(list(array), what)
    if array.ndim < 3:
        raise KsegError(f"{what}: expected an array [N, ...] or a list of arrays, not {_described(array)}")
    return array


def _check(image: np.ndarray, label: np.ndarray, image_name: str, label_name: str) -> None:
    """Raises KsegError unless the arrays are an image and its label map."""
    if image.ndim != 3 or image.shape[2] != 3:
        hint = "repeat the grey channel: numpy.repeat(images[..., None], 3, axis=-1)" if image.ndim == 2 else "convert it to RGB"
        raise KsegError(f"{image_name}: expected [H, W, 3], not {_described(image)}; {hint}")
    if image.dtype != np.uint8:
        raise KsegError(
            f"{image_name}: expected uint8 in 0..255, not {image.dtype}; convert it (of 0..1: (255 * x).astype('uint8'))"
        )
    if label.ndim != 2:
        hint = "; of one-hot labels take argmax(-1)" if label.ndim == 3 and label.shape[2] > 1 else ""
        raise KsegError(f"{label_name}: expected [H, W], not {_described(label)}{hint}")
    if label.dtype.kind not in "iub":
        raise KsegError(f"{label_name}: expected integers, class indices, not {label.dtype}")
    if image.shape[:2] != label.shape:
        raise KsegError(
            f"{image_name} is {_text(image.shape)} and {label_name} {_text(label.shape)} (height x width); make them equal"
        )
    if not image.size:
        raise KsegError(f"{image_name}: has no pixels")


def _described(array: np.ndarray) -> str:
    return f"an array of shape {list(array.shape)}"


def _text(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
