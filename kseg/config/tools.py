"""What the tools around training are told: convert, write_shards, inspect_data."""

import dataclasses
import re
from dataclasses import dataclass

from kseg.config.data import DataConfig
from kseg.config.fields import check_choices, compilation_cache_field, field, parse_size
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ConvertConfig:
    """A checkpoint to convert between PyTorch and Keras."""

    checkpoint: str | None = field(None, "File to read: .safetensors, .pth, .bin or .ckpt; with --to=torch a .keras.", "files")
    out: str | None = field(None, "File to write: a .keras; with --to=torch a .safetensors or .pth.", "files")
    overwrite: bool = field(False, "Replace the file that --out names, if there is one.", "files")
    to: str = field("keras", "Direction: read a PyTorch checkpoint, or write one.", "files", ("keras", "torch"))
    model: str | None = field(None, "Model that the checkpoint is of, e.g. deeplabv3plus.", "model")
    backbone: str | None = field(None, "Backbone of that model; default: the model's own.", "model")
    num_classes: int | None = field(None, "Classes of the model.", "model")
    output_stride: int | None = field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    in_channels: int = field(3, "Channels of the model's images.", "model")
    source: str = field(
        "auto", "Library whose keys the checkpoint must have; auto takes any.", "model", ("auto", "smp", "torchvision", "timm")
    )
    reset_head: bool = field(False, "Leave out the checkpoint's last layer; the new model's starts out random.", "model")
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        check_choices(self)
        for name in ("checkpoint", "out"):
            if getattr(self, name) is None:
                raise KsegError(f"--{name} is missing: name the file to {'read' if name == 'checkpoint' else 'write'}")
        if self.to == "keras":
            for name in ("model", "num_classes"):
                if getattr(self, name) is None:
                    raise KsegError(f"--{name} is missing: a checkpoint of PyTorch does not say what it is of")
            return
        default = {item.name: item.default for item in dataclasses.fields(self)}
        for name in ("model", "backbone", "num_classes", "output_stride", "in_channels", "source", "reset_head"):
            if getattr(self, name) != default[name]:
                raise KsegError(f"--{name} does not go with --to=torch: the .keras file says what it is")


@dataclass(frozen=True)
class ShardsConfig:
    """A data set to write as shards, and where to."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    splits: tuple[str, ...] = field(("train", "val"), "Splits to write, separated by commas.", "data")
    output_dir: str | None = field(None, "Folder that the shards' folder is put into.", "output")
    name: str = field("kseg_data", "Name of the data set, for --tfds_name: small letters, digits and _.", "output")

    def __post_init__(self):
        if self.output_dir is None:
            raise KsegError("--output_dir is missing: name the folder to write the shards into")
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise KsegError(f"--name={self.name}: must be of small letters, digits and _, and start with a letter")
        if not self.splits or not all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", split) for split in self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: name splits of letters, digits and _")


@dataclass(frozen=True)
class InspectConfig:
    """What to look at before training."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    splits: tuple[str, ...] = field(("train", "val"), "Splits to look at; the first is the one that trains.", "data")
    image_size: tuple[int, int] = field((128, 128), "Size of the network's input, for the augmented pictures.", "input")
    augment: str = field("none", "Preset of training augmentations to show.", "input")
    samples: int = field(8, "Pictures on the page, before and after augmentation.", "output")
    seed: int = field(21, "Chooses the pictures and their augmentation.", "output")
    output_dir: str = field("inspection", "Folder for inspection.html and inspection.json.", "output")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: name one split or more, each once")
        for name in ("samples", "seed"):
            if getattr(self, name) < 0:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least 0")
