"""--cache: keeps label maps after they are painted or decoded once, in memory or as PNG files."""

import hashlib
from pathlib import Path
from typing import Protocol, cast

import cv2
import numpy as np

from kseg.data.dataset import BadSample, Dataset, Sample
from kseg.data.label_images import read_values
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path, cache_folder


class LabelReader(Dataset, Protocol):
    """A Dataset that reads images and label maps separately."""

    def load_image(self, index: int) -> np.ndarray: ...

    def load_label(self, index: int) -> np.ndarray: ...


class CachedLabels:
    """A Dataset that keeps the label maps of another one. Images are read each time.

    In memory it keeps PNG data, about 1 % of the pixels' bytes; every worker process has its own. On disk it writes one file per
    sample, for any number of processes. A file that is damaged or does not fit is written again.

    Args:
        dataset: the data set to read from.
        folder: where to write the files; None keeps label maps in memory.
    """

    def __init__(self, dataset: LabelReader, folder: Path | None = None):
        self.dataset = dataset
        self.class_names, self.ignore_index = dataset.class_names, dataset.ignore_index
        self.warnings = getattr(dataset, "warnings", ())
        self.reading = getattr(dataset, "reading", None)
        self.labelled = getattr(dataset, "labelled", True)
        self.image_ids, self.category_ids = (getattr(dataset, name, None) for name in ("image_ids", "category_ids"))
        self._folder = folder
        self._kept: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self):
        return {**self.__dict__, "_kept": {}}  # a process starts with an empty cache: sending this one would cost more

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.dataset.size(index)

    def load(self, index: int) -> Sample:
        index = range(len(self))[index]
        return Sample(self.load_image(index), self.load_label(index), self.name(index))

    def load_image(self, index: int) -> np.ndarray:
        return self.dataset.load_image(index)

    def load_label(self, index: int) -> np.ndarray:
        file = self._folder / f"{index // 1000:04d}" / f"{index:07d}.png" if self._folder else None
        source = file or self._kept.get(index)
        if source is not None and (label := self._read(source, index)) is not None:
            return label
        label = self.dataset.load_label(index)
        if file is None:
            self._kept[index] = _png(label)
            return label
        try:
            with atomic_path(file) as temporary:
                temporary.write_bytes(_png(label))
        except OSError as error:
            raise KsegError(f"--cache=disk: {file} cannot be written ({error.strerror}); set KSEG_CACHE to a folder.") from error
        return label

    def _read(self, source: Path | bytes, index: int) -> np.ndarray | None:
        """The kept label map; None if there is none or it does not fit."""
        try:
            label = read_values(source, "cache", max_pixels=2**30)
        except BadSample:  # missing, or damaged: every PNG chunk has a checksum
            return None
        known = (label < len(self.class_names)) | (label == self.ignore_index)
        return label if label.dtype == np.uint8 and label.shape == self.size(index) and known.all() else None


def cached(dataset: Dataset, cache: str, name: str) -> Dataset:
    """Returns the data set with --cache=none, memory or disk. name: the source's name for messages. Raises KsegError."""
    if cache == "none":
        return dataset
    if not hasattr(dataset, "load_label"):
        raise KsegError(f"--cache={cache}: the source {name} has no load_label; use --cache=none.")
    reader = cast(LabelReader, dataset)
    if cache == "memory":
        return CachedLabels(reader)
    key = getattr(dataset, "label_key", None)
    if key is None:
        raise KsegError(f"--cache=disk: the label maps of {name} are already files on disk; use --cache=memory or none.")
    return CachedLabels(reader, cache_folder() / "labels" / hashlib.sha256(key.encode()).hexdigest()[:32])


def _png(label: np.ndarray) -> bytes:
    return cv2.imencode(".png", label)[1].tobytes()
