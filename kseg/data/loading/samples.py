"""Makes the samples of batches: callables of an index that run in threads or in worker processes.

Nothing here imports TensorFlow, Keras or a backend, so that worker processes start fast and stay small.
"""

import bisect
import itertools
import mmap
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kseg.data.augmentation.augmenter import Augmenter, sample_seed
from kseg.data.dataset import Dataset, Sample
from kseg.utils.errors import KsegError

Arrays = tuple[np.ndarray, ...]
Spec = tuple[tuple[tuple[int, ...], str, int], ...]
"""(shape, dtype, padding value) of each array of a sample."""


@dataclass(frozen=True)
class TrainSamples:
    """(epoch, index) -> image uint8 [h, w, 3], label uint8 [h, w], augmented with a seed made of (seed, epoch, index)."""

    dataset: Dataset
    augment: Augmenter
    seed: int

    @property
    def spec(self) -> Spec:
        return _network_input(self.augment, self.dataset)

    def __call__(self, epoch: int, index: int) -> Arrays:
        sample = self.dataset.load(index)
        try:
            return self.augment(sample.image, sample.label, sample_seed(self.seed, epoch, index))
        except Exception as error:  # albumentations raises many kinds, for example for a crop larger than the image
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise KsegError(
                f"{sample.name}: --augment fails on this image ({reason}); change the transforms, or leave the image out."
            ) from error


@dataclass(frozen=True)
class EvalSamples:
    """index -> image uint8 [h, w, 3], label uint8 [h, w], at the model's input size."""

    dataset: Dataset
    resize: Augmenter

    @property
    def spec(self) -> Spec:
        return _network_input(self.resize, self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def __call__(self, index: int) -> Arrays:
        sample = self.dataset.load(index)
        return self.resize(sample.image, sample.label)


@dataclass(frozen=True)
class WindowSamples:
    """number -> image uint8 [h, w, 3], label uint8 [h, w]: windows of images at their own size; `window` is (h, w).

    The windows of an image lie side by side, row by row. The last ones of a row or column are moved inwards; what they share with
    others is ignored in them. A smaller image gets one window, with black, ignored pixels beyond it. So every labelled pixel
    counts once. ends: the number of windows of the images up to each.
    """

    dataset: Dataset
    window: tuple[int, int]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, dataset: Dataset, window: tuple[int, int]) -> "WindowSamples":
        """Returns all windows of a data set's images."""
        counts = (np.prod(_grid(dataset.size(index), window)) for index in range(len(dataset)))
        return cls(dataset, window, tuple(itertools.accumulate(map(int, counts))))

    @property
    def spec(self) -> Spec:
        return ((*self.window, 3), "uint8", 0), (self.window, "uint8", self.dataset.ignore_index)

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, number: int) -> str:
        index, place = self._place(number)
        return f"{self.dataset.name(index)} window {place}"

    def __call__(self, number: int) -> Arrays:
        index, place = self._place(number)
        sample = _load_once(self.dataset, index)
        size = sample.label.shape
        rows, columns = (
            _side_of_window(position, side, length)
            for position, side, length in zip(divmod(place, _grid(size, self.window)[1]), self.window, size, strict=True)
        )
        image, label = (np.full(shape, value, dtype) for shape, dtype, value in self.spec)
        part = sample.image[rows.window, columns.window]
        image[: part.shape[0], : part.shape[1]] = part
        label[rows.counted, columns.counted] = sample.label[rows.own, columns.own]
        return image, label

    def _place(self, number: int) -> tuple[int, int]:
        """Returns the image of a window, and its place among the image's windows."""
        index = bisect.bisect_right(self.ends, number)
        return index, number - (self.ends[index - 1] if index else 0)


@dataclass(frozen=True)
class _Side:
    """The pixels of a window along one side.

    window: its pixels in the image. own: those of them that it counts. counted: the same, as places in the window.
    """

    window: slice
    own: slice
    counted: slice


def _side_of_window(position: int, side: int, length: int) -> _Side:
    """Returns window number `position` along a side of `length` pixels. side: of the window."""
    start, first, last = max(0, min(position * side, length - side)), position * side, min((position + 1) * side, length)
    return _Side(slice(start, start + side), slice(first, last), slice(first - start, last - start))


def _grid(size: tuple[int, ...], window: tuple[int, int]) -> tuple[int, int]:
    """Returns how many windows lie below each other, and side by side, in an image of `size`."""
    height, width = (-(-length // side) for length, side in zip(size, window, strict=True))
    return height, width


_loaded = threading.local()


def _load_once(dataset: Dataset, index: int) -> Sample:
    """Loads a sample, unless this thread loaded it last: the windows of an image follow each other."""
    if getattr(_loaded, "of", None) is not dataset or _loaded.index != index:
        _loaded.sample, _loaded.of, _loaded.index = dataset.load(index), dataset, index
    return _loaded.sample


@dataclass(frozen=True)
class FullSizeSamples:
    """index -> image uint8 [h, w, 3], label uint8 [H, W], size int32 [2].

    The label keeps its own size and is padded to `area`, (H, W). resize: to the model's input size; None keeps the image at its
    own size, too, padded with black.
    """

    dataset: Dataset
    resize: Augmenter | None
    area: tuple[int, int]

    @property
    def spec(self) -> Spec:
        height, width = self.area if self.resize is None else self.resize.image_size
        return ((height, width, 3), "uint8", 0), (self.area, "uint8", self.dataset.ignore_index), ((2,), "int32", 1)

    def __call__(self, index: int) -> Arrays:
        sample = self.dataset.load(index)
        rows, columns = sample.label.shape
        label = np.full(self.area, self.dataset.ignore_index, "uint8")
        label[:rows, :columns] = sample.label
        if self.resize is not None:
            image = self.resize(sample.image, sample.label)[0]
        else:
            image = np.zeros((*self.area, 3), "uint8")
            image[:rows, :columns] = sample.image
        return image, label, np.array([rows, columns], "int32")


def eval_samples(dataset: Dataset, image_size: tuple[int, int], window: tuple[int, int] | None) -> EvalSamples | WindowSamples:
    """Returns the samples of validation: images resized to image_size; with `window` their windows."""
    return WindowSamples.of(dataset, window) if window else EvalSamples(dataset, Augmenter("none", image_size))


Samples = TrainSamples | EvalSamples | WindowSamples | FullSizeSamples


def _network_input(augment: Augmenter, dataset: Dataset) -> Spec:
    return ((*augment.image_size, 3), "uint8", 0), (augment.image_size, "uint8", dataset.ignore_index)


def make_chunk(samples: Samples, arguments: Sequence[tuple[int, ...]], out: Arrays) -> None:
    """Writes samples(*argument) for each argument into `out`, arrays [len(arguments), *shape]; padding for a negative index."""
    for place, argument in enumerate(arguments):
        sample = [value for _, _, value in samples.spec] if argument[-1] < 0 else samples(*argument)
        for whole, part in zip(out, sample, strict=True):
            whole[place] = part


def chunk_arrays(spec: Spec, count: int, memory: mmap.mmap | None = None) -> Arrays:
    """Returns arrays [count, *shape] for samples: in `memory`, each on cache lines of its own, or new ones."""
    arrays, offset = [], 0
    for shape, dtype, _ in spec:
        array = np.ndarray((count, *shape), dtype, memory, offset if memory is not None else 0)
        arrays.append(array)
        offset += _round_up(array.nbytes)
    return tuple(arrays)


def chunk_bytes(spec: Spec, count: int) -> int:
    """Returns the number of bytes that chunk_arrays needs."""
    return sum(_round_up(count * int(np.prod(shape)) * np.dtype(dtype).itemsize) for shape, dtype, _ in spec)


def _round_up(size: int) -> int:
    return -(-size // 64) * 64  # to whole cache lines


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the shuffled indices of an epoch's samples, int64 [steps * batch_size], without an incomplete last batch.

    epoch: counts from 0; each has an order of its own.
    """
    return np.random.default_rng([seed, epoch]).permutation(count)[: count // batch_size * batch_size].astype("int64")


def batch_names(dataset: Dataset, batch_size: int, seed: int, epoch: int, step: int) -> list[str]:
    """Returns the names of the samples of one step; epoch and step count from 0."""
    order = epoch_order(len(dataset), batch_size, seed=seed, epoch=epoch)
    return [dataset.name(index) for index in order[step * batch_size : (step + 1) * batch_size].tolist()]
