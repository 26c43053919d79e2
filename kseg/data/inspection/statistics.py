"""Statistics of the samples of a split, from reading each sample once."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from kseg.data.check import map_samples
from kseg.data.dataset import BadSample, Dataset
from kseg.data.inspection.class_weights import ClassCounts, pixel_counts, sum_counts
from kseg.data.subset import sample_notes

TINY = 10
"""Regions with fewer pixels are tiny."""
THUMB = 16
"""Side of the grey thumbnails that are compared to find near duplicates."""


@dataclass(frozen=True)
class SampleStatistics:
    """Statistics of one sample.

    counts: int64 [256], pixels of each label value. digest: SHA-256 of the image's pixels. deviation: standard deviation of its
    grey levels. thumbnail: uint8 [THUMB * THUMB]. tiny: number of regions with fewer than TINY pixels. overlap: pixels under
    several annotations.
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
    """Statistics of a split.

    samples: of usable samples, by index. bad: (name, message) of the others. notes: {what the user should know: names of the
    samples}.
    """

    split: str
    dataset: Dataset
    samples: dict[int, SampleStatistics]
    bad: list[tuple[str, str]]
    notes: dict[str, list[str]]

    @property
    def counts(self) -> ClassCounts:
        """Pixels and images of each class."""
        return sum_counts((sample.counts for sample in self.samples.values()), len(self.dataset.class_names))

    @property
    def pixels(self) -> int:
        """Number of pixels, ignored ones included."""
        return int(sum(sample.counts.sum() for sample in self.samples.values()))

    @property
    def ignored(self) -> int:
        """Number of ignored pixels."""
        return int(sum(sample.counts[self.dataset.ignore_index] for sample in self.samples.values()))

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Number of images of each (height, width)."""
        return Counter(sample.size for sample in self.samples.values())


def read_split(split: str, dataset: Dataset) -> SplitStatistics:
    """Reads every sample once, in one thread per CPU, and shows a progress bar."""

    def read(index):
        try:
            return _read_sample(dataset, index)
        except BadSample as error:
            return str(error)

    stats = SplitStatistics(split, dataset, {}, [], {})
    for index, result in enumerate(map_samples(dataset, read, description=f"inspect {split}")):
        if isinstance(result, str):
            stats.bad.append((dataset.name(index), result))
        else:
            stats.samples[index] = result
            for note in sample_notes(dataset, index):
                stats.notes.setdefault(note, []).append(dataset.name(index))
    return stats


def _read_sample(dataset: Dataset, index: int) -> SampleStatistics:
    sample = dataset.load(index)
    counts = pixel_counts(sample.label)
    grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY)
    tiny = 0
    for value in np.flatnonzero(counts):
        if value != dataset.ignore_index:
            _, _, regions, _ = cv2.connectedComponentsWithStats((sample.label == value).astype("uint8"), connectivity=8)
            tiny += int((regions[1:, cv2.CC_STAT_AREA] < TINY).sum())
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
