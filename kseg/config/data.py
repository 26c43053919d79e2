"""Where images and label maps come from."""

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any

from kseg.config.fields import check_choices, field
from kseg.utils.errors import KsegError

MAX_PIXELS = 2**30
"""What --max_pixels may be raised to: 3 GB an image."""
TRAIN_PART, VAL_PART = "@train", "@val"
"""With --val_fraction the split "train" comes in two parts, "train@train" and "train@val"."""


@dataclass(frozen=True)
class DataConfig:
    """Where images and label maps come from."""

    dataset: str = field(
        "synthetic", "Data source: coco, folder, tfds, or synthetic (an offline demonstration, not a benchmark).", "data"
    )
    data_dir: str | None = field(None, "Folder of the data set, or where to keep the synthetic one.", "data")
    annotations: str = field("annotations/{split}.json", "COCO file of a split, below data_dir.", "data")
    images: str = field(
        "images/{split}",
        "Images of a split, below data_dir: a folder (file_name in a COCO file starts there); "
        "folder: also a pattern such as 'leftImg8bit/{split}/*_leftImg8bit.png'.",
        "data",
    )
    background: bool = field(
        True, "Pixels that no annotation covers are class 0, 'background'; --nobackground ignores them.", "data"
    )
    ignore_categories: tuple[str, ...] = field(
        (), "Categories (names or ids) whose pixels neither train nor count, separated by commas.", "data"
    )
    on_bad_sample: str = field(
        "error", "What to do about an unusable sample: stop, or leave it out and list it.", "data", ("error", "skip")
    )
    labels: str = field("labels/{split}", "folder: label maps of a split, a folder or a pattern as for --images.", "data")
    split_list: str | None = field(
        None,
        "folder: text file that names the samples of a split, one a line, e.g. 'ImageSets/Segmentation/{split}.txt'.",
        "data",
    )
    label_map: str | None = field(
        None,
        "folder, tfds: YAML or JSON file, label value: class name or 'ignore'; or a .txt of class names, one a line.",
        "data",
    )
    tfds_name: str | None = field(None, "tfds: name of the data set, e.g. oxford_iiit_pet or oxford_iiit_pet:4.0.0.", "data")
    tfds_image: str = field("image", "tfds: feature that holds the image.", "data")
    tfds_label: str = field("segmentation_mask", "tfds: feature that holds the label map.", "data")
    cache: str = field(
        "none",
        "Keep decoded label maps: in memory (each process its own), or on disk (coco, synthetic).",
        "data",
        ("none", "memory", "disk"),
    )
    max_pixels: int | None = field(None, "Largest image that is decoded, in pixels; default: Pillow's limit, 89478485.", "data")
    val_fraction: float = field(
        0.0, "Share of the training split, drawn by --split_seed, that validates instead of --val_split; 0: none.", "data"
    )
    split_seed: int = field(0, "Seed of the split by --val_fraction.", "data")
    split_group: str | None = field(
        None, "Regular expression on the image's name; images with the same match (or first group) stay on one side.", "data"
    )

    def __post_init__(self):
        check_choices(self)
        if self.dataset not in ("synthetic", "tfds") and self.data_dir is None:
            raise KsegError(f"--dataset={self.dataset} needs --data_dir, the folder that holds the data")
        if self.dataset == "tfds" and self.tfds_name is None:
            raise KsegError("--dataset=tfds needs --tfds_name, the data set's name")
        if not 0 <= self.val_fraction < 1:
            raise KsegError(f"--val_fraction={self.val_fraction}: must be at least 0 and less than 1")
        if self.split_seed < 0:
            raise KsegError(f"--split_seed={self.split_seed}: must be at least 0")
        if self.max_pixels is not None and not 1 <= self.max_pixels <= MAX_PIXELS:
            raise KsegError(f"--max_pixels={self.max_pixels}: must be between 1 and {MAX_PIXELS}")
        if self.split_group is not None:
            try:
                re.compile(self.split_group)
            except re.error as error:
                raise KsegError(f"--split_group={self.split_group}: is no regular expression ({error})") from None


def _overrides() -> type:
    """A dataclass of DataConfig's fields, each None: as in the run. What splits a run's own data is not among them."""
    hints = typing.get_type_hints(DataConfig)
    fields = []
    for item in dataclasses.fields(DataConfig):
        if item.name not in ("val_fraction", "split_seed", "split_group"):
            metadata = {**item.metadata, "help": item.metadata["help"] + " Default: as in the run.", "choices": None}
            fields.append((item.name, hints[item.name] | None, dataclasses.field(default=None, metadata=metadata)))
    return dataclasses.make_dataclass("DataOverrides", fields, frozen=True)


DataOverrides: Any = _overrides()
"""What a trained run's data may be replaced with, for configs to inherit; None stands for the run's own."""
