"""Options of kseg.inspect_data."""

import dataclasses
from dataclasses import dataclass

from kseg.config.data import TRAIN_PART, VAL_PART, DataConfig
from kseg.config.fields import check_at_least, field, parse_size
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class InspectConfig:
    """A data set to inspect before training."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    splits: tuple[str, ...] = field(
        ("train", "val"),
        "Splits to inspect; the first is the training split, the second the validation split. With --val_fraction: the parts of "
        "the first.",
        "data",
    )
    image_size: tuple[int, int] = field((128, 128), "Size of the network's input, for the augmented examples.", "examples")
    augment: str = field("none", "Preset of training augmentations to show.", "examples")
    samples: int = field(8, "Number of examples on the page, before and after augmentation.", "examples")
    seed: int = field(21, "Seed of the examples and their augmentation.", "examples")
    output: str = field("inspection", "Folder for inspection.html and inspection.json.", "output", value="DIR")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: name one split or more, each once")
        check_at_least(self, 0, "samples", "seed")
        if self.data.val_fraction:
            whole = self.splits[0].removesuffix(TRAIN_PART)
            object.__setattr__(self, "splits", (whole + TRAIN_PART, whole + VAL_PART))
