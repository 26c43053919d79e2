"""Data flags: where images and label maps come from."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from kseg.config.data_sources import LAYOUT_SOURCES, LAYOUTS, READ_BY, how_to_read, is_read
from kseg.config.fields import PYTHON, as_flag, check_choices, field
from kseg.utils.errors import KsegError

MAX_PIXELS = 2**30
"""Largest value of --max_pixels: an image of 3 GB."""
TRAIN_PART, VAL_PART = "@train", "@val"
"""With --val_fraction, the split "train" has the parts "train@train" and "train@val"."""


@dataclass(frozen=True)
class DataConfig:
    """Where images and label maps come from."""

    dataset: str = field(
        "synthetic", "Data source: coco, folder, tfds, or synthetic (a demonstration without downloads, no benchmark).", "data"
    )
    data_dir: str | None = field(None, "Folder of the data set; of the synthetic one, where to keep it.", "data", value="DIR")
    val_fraction: float = field(
        0.0, "Validate on this share of the training split, drawn by --split_seed, instead of on --val_split. 0: off.", "data"
    )
    split_seed: int = field(0, "Seed of --val_fraction.", "data")
    split_group: str | None = field(
        None,
        "Regular expression for --val_fraction: images whose names have the same match (or first group) stay together.",
        "data",
        value="REGEX",
    )
    layout: str | None = field(
        None,
        "coco, folder: files as this data set or tool arranges them; sets the flags below that are not given.",
        "data files",
        LAYOUTS,
    )
    annotations: str = field("annotations/{split}.json", "coco: annotation file of a split, below --data_dir.", "data files")
    images: str = field(
        "images/{split}",
        "Folder of a split's images, below --data_dir. coco: each file_name starts there; folder: also a pattern such as "
        "'leftImg8bit/{split}/*_leftImg8bit.png'.",
        "data files",
    )
    background: bool = field(
        True, "coco, synthetic: pixels without annotation are class 0, 'background'; --nobackground ignores them.", "data files"
    )
    ignore_categories: tuple[str, ...] = field(
        (),
        "Classes whose pixels are ignored, in training and in scores: names; of coco, also ids of categories.",
        "data files",
    )
    labels: str = field("labels/{split}", "folder: a split's label maps, a folder or a pattern as in --images.", "data files")
    split_list: str | None = field(
        None,
        "folder: text file with the sample names of a split, one per line, e.g. 'ImageSets/Segmentation/{split}.txt'.",
        "data files",
        value="FILE",
    )
    label_map: str | None = field(
        None,
        "folder, tfds: file of the classes' values or colours: YAML or JSON (1: car, or car: [0, 0, 142]; the name 'ignore' is "
        "no class), a .txt of class names, one per line, or a file of another tool; or voc, cityscapes, camvid.",
        "data files",
        value="FILE",
    )
    label_threshold: float | None = field(
        None,
        "folder, tfds: of two classes, pixels at least so bright are the second, for masks with soft edges and JPEG; 128 is the "
        "middle.",
        "data files",
    )
    tfds_name: str | None = field(
        None, "tfds: name of the data set, e.g. oxford_iiit_pet or oxford_iiit_pet:4.0.0.", "data files"
    )
    tfds_image: str = field("image", "tfds: feature of the image.", "data files")
    tfds_label: str = field("segmentation_mask", "tfds: feature of the label map.", "data files")
    exif: str = field(
        "auto",
        "coco, folder, tfds: apply or ignore the EXIF orientation of images; auto: as the label's size and the polygons say, "
        "else apply.",
        "data files",
        ("auto", "apply", "ignore"),
    )
    follow_links: bool = field(False, "coco, folder: follow links that lead out of --data_dir.", "data files")
    on_bad_annotation: str = field(
        "skip",
        "coco: what to do with an annotation, or a part of one, that covers nothing (no segmentation, fewer than 3 points): "
        "leave it out and count it, or treat its image as unusable.",
        "data files",
        ("skip", "error"),
    )
    on_bad_sample: str = field(
        "error", "What to do with an unusable sample: stop, or skip and list it.", "data files", ("error", "skip")
    )
    cache: str = field(
        "none",
        "Keep decoded label maps: in memory (in each process), or on disk (coco, synthetic).",
        "data files",
        ("none", "memory", "disk"),
    )
    max_pixels: int | None = field(None, "Largest image to decode, in pixels; default: Pillow's limit, 89478485.", "data files")

    def __post_init__(self):
        check_choices(self)
        self._check_layout()
        if self.dataset not in ("synthetic", "tfds", PYTHON) and self.data_dir is None and how_to_read(self.dataset) is None:
            raise KsegError(f"--dataset={self.dataset} needs --data_dir, the folder of the data set")
        if self.dataset == "tfds" and self.tfds_name is None:
            raise KsegError("--dataset=tfds needs --tfds_name, the name of the data set")
        if not 0 <= self.val_fraction < 1:
            raise KsegError(f"--val_fraction={self.val_fraction}: must be at least 0 and less than 1")
        if self.split_seed < 0:
            raise KsegError(f"--split_seed={self.split_seed}: must be at least 0")
        if self.max_pixels is not None and not 1 <= self.max_pixels <= MAX_PIXELS:
            raise KsegError(f"--max_pixels={self.max_pixels}: must be between 1 and {MAX_PIXELS}")
        if self.label_threshold is not None and not abs(self.label_threshold) < float("inf"):
            raise KsegError(f"--label_threshold={self.label_threshold}: must be a finite number")
        if self.split_group is not None:
            try:
                re.compile(self.split_group)
            except re.error as error:
                raise KsegError(f"--split_group={self.split_group}: is not a regular expression ({error})") from None
        self._check_sources()

    def _check_layout(self) -> None:
        """Sets the data source that a layout implies. Raises KsegError for a layout that the source does not have."""
        if self.layout is None:
            return
        sources = LAYOUT_SOURCES[self.layout]
        if self.dataset == "synthetic" and len(sources) == 1:
            object.__setattr__(self, "dataset", sources[0])
        if self.dataset not in sources:
            raise KsegError(f"--layout={self.layout}: needs {' or '.join(f'--dataset={name}' for name in sources)}")

    def _check_sources(self) -> None:
        """Raises KsegError for a flag that the data source does not read."""
        for name in READ_BY:
            value = getattr(self, name)
            if value != _FIELDS[name].default and not is_read(name, self.dataset):
                sources = " or ".join(f"--dataset={source}" for source in READ_BY[name])
                raise KsegError(
                    f"{as_flag(name, value)}: is not read by --dataset={self.dataset}; use {sources}, or leave it out"
                )
        for name in ("split_seed", "split_group"):
            if getattr(self, name) != _FIELDS[name].default and not self.val_fraction:
                raise KsegError(f"{as_flag(name, getattr(self, name))}: needs --val_fraction, the share to validate on")


_FIELDS = {item.name: item for item in dataclasses.fields(DataConfig)}
NOT_OVERRIDDEN = ("val_fraction", "split_seed", "split_group")
"""DataConfig's flags that a trained run keeps: they divided its data."""


def _override(name: str) -> Any:
    """Returns DataConfig's flag with the default None."""
    metadata = _FIELDS[name].metadata
    return dataclasses.field(default=None, metadata={**metadata, "group": f"{metadata['group']} (default: as in the run)"})


@dataclass(frozen=True)
class DataOverrides:
    """Data flags for a trained run; None keeps the run's own value. Has DataConfig's fields but NOT_OVERRIDDEN."""

    dataset: str | None = _override("dataset")
    data_dir: str | None = _override("data_dir")
    layout: str | None = _override("layout")
    annotations: str | None = _override("annotations")
    images: str | None = _override("images")
    background: bool | None = _override("background")
    ignore_categories: tuple[str, ...] | None = _override("ignore_categories")
    labels: str | None = _override("labels")
    split_list: str | None = _override("split_list")
    label_map: str | None = _override("label_map")
    label_threshold: float | None = _override("label_threshold")
    tfds_name: str | None = _override("tfds_name")
    tfds_image: str | None = _override("tfds_image")
    tfds_label: str | None = _override("tfds_label")
    exif: str | None = _override("exif")
    follow_links: bool | None = _override("follow_links")
    on_bad_annotation: str | None = _override("on_bad_annotation")
    on_bad_sample: str | None = _override("on_bad_sample")
    cache: str | None = _override("cache")
    max_pixels: int | None = _override("max_pixels")

    def __post_init__(self):
        check_choices(self)

    def apply(self, data: DataConfig) -> DataConfig:
        """Returns the run's data config with the given values replaced.

        Another source starts from its own defaults where it does not read the run's flags.
        """
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        dataset = given.get("dataset", data.dataset)
        unread: dict[str, Any] = {name: _FIELDS[name].default for name in READ_BY if not is_read(name, dataset)}
        return dataclasses.replace(data, **({} if dataset == data.dataset else unread) | given)
