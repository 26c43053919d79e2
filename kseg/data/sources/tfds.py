"""Data sets of TensorFlow Datasets (tfds) in ArrayRecord format, read without TensorFlow.

kseg.data.image_io decodes the images, not tfds: pixels and error messages are the same as for other sources.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import EXIF_STORED, read_image, read_size
from kseg.data.label_images import read_label, stored_values
from kseg.data.label_map import IGNORE, LabelMap, build_label_map
from kseg.data.label_map_file import as_label_map
from kseg.data.reading import Reading
from kseg.data.registry import register_dataset
from kseg.utils.errors import KsegError, suggest

FILE_NAME = "file_name"
"""Text feature with the sample's name, if the data set has one."""


class TfdsDataset:
    """One split of a prepared tfds data set, as a kseg.data.dataset.Dataset. Downloads nothing.

    Args:
        name: as tfds.builder takes it: "oxford_iiit_pet", with ":version" or "/config".
        split: "train", "train[:90%]", ....
        data_dir: where tfds keeps data sets; None: tfds's default.
        image, label: names of the image features.
        class_names: names of the label values 0, 1, ....
        label_map: instead, the class of each value: {value: name or "ignore"}, or a file, see kseg.data.label_map. Neither is
            needed if the label feature names its classes (a LabeledImage).
        exif: see kseg.data.image_io.read_image.
        label_threshold: see kseg.data.label_images.read_label.
        ignore_categories: names of classes whose pixels are ignored.
        max_pixels: see kseg.data.image_io.read_image.

    Raises:
        KsegError: if the data set is not prepared as ArrayRecord, or has no such split or feature.
    """

    def __init__(
        self,
        name: str,
        split: str = "all",
        *,
        data_dir: str | os.PathLike[str] | None = None,
        image: str = "image",
        label: str = "segmentation_mask",
        class_names: Sequence[str] | None = None,
        label_map: LabelMap | str | os.PathLike[str] | Mapping[int, str] | None = None,
        exif: str = "auto",
        label_threshold: float | None = None,
        ignore_categories: Sequence[str] = (),
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self._tfds, self._split, self._max_pixels, self._threshold = name, split, max_pixels, label_threshold
        self._exif, self._notes = exif, dict[int, list[str]]()
        self._features = (image, label)
        self._data_dir = os.path.expanduser(data_dir) if data_dir else None  # noqa: PTH111  # tfds's may be a URL
        info = _builder(name, self._data_dir).info
        features = info.features
        for flag, feature in (("tfds_image", image), ("tfds_label", label)):
            if feature not in features:
                raise KsegError(f"--{flag}={feature}: {name} has no such feature{suggest(feature, list(features))}")
            if not hasattr(features[feature], "encoding_format"):
                raise KsegError(f"--{flag}={feature}: this feature of {name} is not an image; choose another.")
        if not re.match(r"\w+", split) or re.match(r"\w+", split)[0] not in {"all", *info.splits}:  # type: ignore[index]
            raise KsegError(f"{name} has no split {split!r}{suggest(split, list(info.splits))}")
        names = getattr(features[label], "names", None)  # of a LabeledImage
        if label_map is not None or class_names is not None:
            self.label_map = as_label_map(label_map, class_names)
        else:
            if not names:
                raise KsegError(f"{name} does not name its classes; pass --label_map=FILE, label value: class name.")
            void = {IGNORE_INDEX: IGNORE} if FILE_NAME in features and len(names) < IGNORE_INDEX else {}  # as kseg writes shards
            self.label_map = build_label_map(dict(enumerate(names)) | void, name)
        self.label_map = self.label_map.ignoring(ignore_categories)
        if label_threshold is not None:
            self.label_map.binary()  # raises unless there are two classes
        self.class_names = self.label_map.class_names
        self._named = FILE_NAME in features
        try:
            self._count = len(self._source)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise KsegError(f"split {split!r} of {name} cannot be opened ({reason}); prepare the data set again.") from error
        if not self._count:
            raise KsegError(f"split {split!r} of {name} is empty; choose another.")
        meanings = tuple(self.label_map.meanings())
        self.reading = Reading(f"tfds: {name}, split {split}, features {image} and {label}", meanings)

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds

        features = _builder(self._tfds, self._data_dir).info.features
        skipped = {key: tfds.decode.SkipDecoding() for key in features if hasattr(features[key], "encoding_format")}
        return _builder(self._tfds, self._data_dir).as_data_source(self._split, decoders=skipped)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_source"}  # the other process opens it

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        """The record's file_name, or its place in the split."""
        name = self._record(index)[FILE_NAME] if self._named else f"{self._split}-{index:06d}"
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the label image, from its header."""
        return read_size(self._record(index)[self._features[1]], self._shown(index), self._max_pixels)

    def load(self, index: int) -> Sample:
        """Reads sample `index`. Raises BadSample, with a line that names the record, if it cannot be used."""
        index = range(len(self))[index]  # raises IndexError beyond the end; a negative index counts from it
        return Sample(self.load_image(index), self.load_label(index), self.name(index))

    def load_image(self, index: int) -> np.ndarray:
        """Reads the image, uint8 [H, W, 3]."""
        shown = f"{self._shown(index)}, feature {self._features[0]}"
        size = self.size(index)
        source = self.image_bytes(index)
        notes: list[str] = []
        image = read_image(
            source,
            shown,
            size,
            stated_in=f"feature {self._features[1]}",
            max_pixels=self._max_pixels,
            exif=self._exif,
            notes=notes,
        )
        if notes := [note for note in notes if note != EXIF_STORED]:  # the label's size shows that this is right
            self._notes[index] = notes
        return image

    def notes(self, index: int) -> list[str]:
        """What the user should know of a sample that was loaded."""
        return self._notes.get(index, [])

    def load_label(self, index: int) -> np.ndarray:
        """Reads the label map, uint8 [H, W]."""
        content, shown = self._record(index)[self._features[1]], self._shown_label(index)
        return read_label(content, shown, self.label_map, threshold=self._threshold, max_pixels=self._max_pixels)

    def label_values(self, index: int) -> np.ndarray:
        """The different values of the label image, before the label map."""
        return stored_values(self._record(index)[self._features[1]], self._shown_label(index), self._max_pixels)

    def image_bytes(self, index: int) -> bytes:
        """The image file's content."""
        return self._record(index)[self._features[0]]

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._source[index]
        except Exception as error:  # array_record and protobuf raise many kinds on a damaged shard
            raise BadSample(f"{self._shown(index)}: cannot be read ({' '.join(str(error).split())}).") from error

    def _shown_label(self, index: int) -> str:
        return f"{self._shown(index)}, feature {self._features[1]}"

    def _shown(self, index: int) -> str:
        return f"{self._tfds}, split {self._split}, record {index}"


def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise KsegError(f"--tfds_name={name}: cannot be opened ({reason}); check the name and --data_dir.") from error
    how = f"prepare it first: tfds build {name} --file_format=array_record"
    if not builder.is_prepared():
        raise KsegError(f"--tfds_name={name}: is not prepared in {builder.data_dir}; {how}.")
    if builder.info.file_format.value != "array_record":
        raise KsegError(
            f"--tfds_name={name}: is prepared as {builder.info.file_format.value}, a format without random access; {how}."
        )
    return builder


@register_dataset("tfds")
def open_tfds(config: DataConfig, split: str) -> TfdsDataset:
    """Opens a prepared TensorFlow Datasets data set."""
    assert config.tfds_name is not None  # DataConfig requires it
    return TfdsDataset(
        config.tfds_name,
        split,
        data_dir=config.data_dir,
        image=config.tfds_image,
        label=config.tfds_label,
        exif=config.exif,
        label_map=config.label_map,
        label_threshold=config.label_threshold,
        ignore_categories=config.ignore_categories,
        max_pixels=config.max_pixels,
    )
