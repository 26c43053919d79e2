"""What makes a sample of a batch: plain functions of an index, which threads of this process or worker processes run.

Nothing here imports TensorFlow, Keras or a backend: a worker process has none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kseg.data.augment import Augmenter, sample_seed
from kseg.data.dataset import Dataset
from kseg.errors import KsegError

Arrays = tuple[np.ndarray, ...]
Spec = tuple[tuple[tuple[int, ...], str, int], ...]
"""(shape, dtype, value of a fill-up sample) of each array of a sample."""


@dataclass(frozen=True)
class TrainJob:
    """(epoch, index) -> image uint8 [h, w, 3], label uint8 [h, w], augmented by the seed of (seed, epoch, index)."""

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
        except Exception as error:  # albumentations raises many kinds, for example where a crop is larger than an image
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise KsegError(
                f"{sample.name}: --augment fails on this image ({reason}); change the transforms, or leave the image out."
            ) from error


@dataclass(frozen=True)
class EvalJob:
    """index -> image uint8 [h, w, 3], label uint8 [h, w], at the network's input size."""

    dataset: Dataset
    resize: Augmenter

    @property
    def spec(self) -> Spec:
        return _network_input(self.resize, self.dataset)

    def __call__(self, index: int) -> Arrays:
        sample = self.dataset.load(index)
        return self.resize(sample.image, sample.label)


@dataclass(frozen=True)
class FullSizeJob:
    """index -> image uint8 [h, w, 3], label uint8 [H, W], size int32 [2]: the label at its own size, padded to `area`."""

    dataset: Dataset
    resize: Augmenter
    area: tuple[int, int]

    @property
    def spec(self) -> Spec:
        image, _ = _network_input(self.resize, self.dataset)
        return image, (self.area, "uint8", self.dataset.ignore_index), ((2,), "int32", 1)

    def __call__(self, index: int) -> Arrays:
        sample = self.dataset.load(index)
        rows, columns = sample.label.shape
        label = np.full(self.area, self.dataset.ignore_index, "uint8")
        label[:rows, :columns] = sample.label
        return self.resize(sample.image, sample.label)[0], label, np.array([rows, columns], "int32")


Job = TrainJob | EvalJob | FullSizeJob


def _network_input(augment: Augmenter, dataset: Dataset) -> Spec:
    return ((*augment.image_size, 3), "uint8", 0), (augment.image_size, "uint8", dataset.ignore_index)


def layout(spec: Spec) -> tuple[Sequence[int], int]:
    """Returns (offset of each array, bytes in all) of a sample in shared memory, each array on a cache line of its own."""
    offsets, end = [], 0
    for shape, dtype, _ in spec:
        offsets.append(end)
        end += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64
    return offsets, end
