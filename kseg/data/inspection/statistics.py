"""What the samples of a split show: gathered by reading each of them once."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from kseg.data.check import map_samples
from kseg.data.dataset import BadSample, Dataset
from kseg.data.inspection.class_weights import ClassCounts, pixel_counts, sum_counts

TINY = 10
"""Regions of fewer pixels are called tiny."""
THUMB = 16
"""Side of the grey thumbnails by which pictures are compared."""


@dataclass(frozen=True)
class SampleStatistics:
    """What one sample shows.

    counts: int64 [256] pixels of each label. digest: of the picture's pixels. deviation: standard deviation of its grey levels.
    thumbnail: uint8 [THUMB * THUMB]. tiny: regions of fewer than TINY pixels. overlap: pixels under several annotations.
    """

    name: str
    size: tuple[int, int]
    counts: np.ndarray
    digest: bytes
    deviation: float
    thumbnail: np.ndarray
    tiny: int
    overlap: int


@dataclass(frozen=True)
class SplitStatistics:
    """A split: its data set, the facts of its usable samples by index, and (name, line) of each of the others."""

    split: str
    dataset: Dataset
    samples: dict[int, SampleStatistics]
    bad: list[tuple[str, str]]

    @property
    def counts(self) -> ClassCounts:
        return sum_counts((sample.counts for sample in self.samples.values()), len(self.dataset.class_names))

    @property
    def pixels(self) -> int:
        return int(sum(sample.counts.sum() for sample in self.samples.values()))

    @property
    def ignored(self) -> int:
        return int(sum(sample.counts[self.dataset.ignore_index] for sample in self.samples.values()))

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images there are of each (height, width)."""
        return Counter(sample.size for sample in self.samples.values())


def read_split(split: str, dataset: Dataset) -> SplitStatistics:
    """Reads every sample once, with a thread for each CPU and a progress bar."""

    def look(index):
        try:
            return _look(dataset, index)
        except BadSample as error:
            return str(error)

    facts = SplitStatistics(split, dataset, {}, [])
    for index, seen in enumerate(map_samples(dataset, look, description=f"inspect {split}")):
        if isinstance(seen, str):
            facts.bad.append((dataset.name(index), seen))
        else:
            facts.samples[index] = seen
    return facts


def _look(dataset: Dataset, index: int) -> SampleStatistics:
    sample = dataset.load(index)
    counts = pixel_counts(sample.label)
    grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY)
    tiny = 0
    for value in np.flatnonzero(counts):
        if value != dataset.ignore_index:
            _, _, stats, _ = cv2.connectedComponentsWithStats((sample.label == value).astype("uint8"), connectivity=8)
            tiny += int((stats[1:, cv2.CC_STAT_AREA] < TINY).sum())
    digest = hashlib.sha256(repr(sample.image.shape).encode())
    digest.update(sample.image.tobytes())
    return SampleStatistics(
        name=sample.name,
        size=(sample.label.shape[0], sample.label.shape[1]),
        counts=counts,
        digest=digest.digest(),
        deviation=float(grey.std()),
        thumbnail=cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).ravel(),
        tiny=tiny,
        overlap=dataset.overlap(index) if hasattr(dataset, "overlap") else 0,
    )
