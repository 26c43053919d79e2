"""Makes the samples of batches: callables of an index that run in threads or in worker processes.

Nothing here imports TensorFlow, Keras or a backend, so that worker processes start fast and stay small.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kseg.data.augmentation.augmenter import Augmenter, sample_seed
from kseg.data.dataset import Dataset
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

    def __call__(self, index: int) -> Arrays:
        sample = self.dataset.load(index)
        return self.resize(sample.image, sample.label)


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


Samples = TrainSamples | EvalSamples | FullSizeSamples


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
