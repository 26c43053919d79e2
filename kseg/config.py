"""What a run is told: frozen dataclasses, validated, JSON both ways. Knows neither absl nor Keras.

Every field carries its help text and group, from which kseg.flags makes the command line.
"""

import dataclasses
import json
import re
import typing
from dataclasses import dataclass
from typing import Any

from kseg.errors import KsegError

MAX_PIXELS = 2**30
"""What --max_pixels may be raised to: 3 GB an image."""
TRAIN_PART, VAL_PART = "@train", "@val"
"""With --val_fraction the split "train" comes in two parts, "train@train" and "train@val"."""


def _field(default: Any, help: str, group: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "group": group, "choices": choices})


def parse_size(value: Any) -> tuple[int, int]:
    """Returns (height, width) from "256", "192x256", 256 or (192, 256). Both must be at least 32."""
    try:
        parts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
        sides = [int(part) for part in parts]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise KsegError(f"--image_size={value}: expected a size such as 256 or 192x256 (height x width)") from None
    if min(height, width) < 32:
        raise KsegError(f"--image_size={value}: height and width must be at least 32")
    return height, width


@dataclass(frozen=True)
class DataConfig:
    """Where images and label maps come from."""

    dataset: str = _field(
        "synthetic", "Data source: coco, folder, tfds, or synthetic (an offline demonstration, not a benchmark).", "data"
    )
    data_dir: str | None = _field(None, "Folder of the data set, or where to keep the synthetic one.", "data")
    annotations: str = _field("annotations/{split}.json", "COCO file of a split, below data_dir.", "data")
    images: str = _field(
        "images/{split}",
        "Images of a split, below data_dir: a folder (file_name in a COCO file starts there); "
        "folder: also a pattern such as 'leftImg8bit/{split}/*_leftImg8bit.png'.",
        "data",
    )
    background: bool = _field(
        True, "Pixels that no annotation covers are class 0, 'background'; --nobackground ignores them.", "data"
    )
    ignore_categories: tuple[str, ...] = _field(
        (), "Categories (names or ids) whose pixels neither train nor count, separated by commas.", "data"
    )
    on_bad_sample: str = _field(
        "error", "What to do about an unusable sample: stop, or leave it out and list it.", "data", ("error", "skip")
    )
    labels: str = _field("labels/{split}", "folder: label maps of a split, a folder or a pattern as for --images.", "data")
    split_list: str | None = _field(
        None,
        "folder: text file that names the samples of a split, one a line, e.g. 'ImageSets/Segmentation/{split}.txt'.",
        "data",
    )
    label_map: str | None = _field(
        None,
        "folder, tfds: YAML or JSON file, label value: class name or 'ignore'; or a .txt of class names, one a line.",
        "data",
    )
    tfds_name: str | None = _field(None, "tfds: name of the data set, e.g. oxford_iiit_pet or oxford_iiit_pet:4.0.0.", "data")
    tfds_image: str = _field("image", "tfds: feature that holds the image.", "data")
    tfds_label: str = _field("segmentation_mask", "tfds: feature that holds the label map.", "data")
    cache: str = _field(
        "none",
        "Keep decoded label maps: in memory (each process its own), or on disk (coco, synthetic).",
        "data",
        ("none", "memory", "disk"),
    )
    max_pixels: int | None = _field(None, "Largest image that is decoded, in pixels; default: Pillow's limit, 89478485.", "data")
    val_fraction: float = _field(
        0.0, "Share of the training split, drawn by --split_seed, that validates instead of --val_split; 0: none.", "data"
    )
    split_seed: int = _field(0, "Seed of the split by --val_fraction.", "data")
    split_group: str | None = _field(
        None, "Regular expression on the image's name; images with the same match (or first group) stay on one side.", "data"
    )

    def __post_init__(self):
        _check_choices(self)
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


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train_split: str = _field("train", "Split that trains.", "data")
    val_split: str = _field("val", "Split that validates, after every epoch and at the end.", "data")
    image_size: tuple[int, int] = _field((128, 128), "Size of the network's input: 256, or 192x256 (height x width).", "input")
    augment: str = _field(
        "none",
        "Training augmentations: a preset (none, light, strong, aug, ...; docs/data.md), albumentations transforms such as "
        "'HorizontalFlip(p=0.5),Blur()', or a file that albumentations.save wrote (.json, .yaml).",
        "input",
    )
    workers: int | None = _field(
        None, "Processes that load and augment images; 0: threads of the main process; default: one a core.", "input"
    )
    model: str = _field("deeplabv3plus", "Model; an unknown name lists what there is.", "model")
    backbone: str | None = _field(None, "Backbone, e.g. keras_cv/resnet50; default: the model's own.", "model")
    backbone_weights: str = _field(
        "none",
        "Initial weights of the backbone: none; a tag such as imagenet (downloaded); hf://owner/repo[@revision]; or a file.",
        "model",
    )
    output_stride: int | None = _field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    batch_size: int = _field(8, "Images a step.", "training")
    epochs: int = _field(12, "Passes over the training split.", "training")
    learning_rate: float = _field(1e-3, "Peak learning rate.", "training")
    schedule: str = _field(
        "poly", "Learning rate over the run: poly falls to 0 with power 0.9.", "training", ("poly", "cosine", "constant")
    )
    warmup_epochs: float = _field(0.0, "Epochs over which the learning rate first rises from 0.", "training")
    optimizer: str = _field(
        "adamw", "adamw: weight decay is decoupled; adam: as PyTorch's, L2 in the gradient.", "training", ("adamw", "adam")
    )
    weight_decay: float = _field(1e-4, "Weight decay, of the kind that the optimizer has.", "training")
    class_weights: str = _field(
        "none",
        "Weights of the classes in the loss: none, median_frequency or inverse (over the training split), or a JSON file, "
        "FILE or FILE#KEY, such as kseg.inspect_data writes.",
        "training",
    )
    seed: int = _field(21, "One seed makes a run repeatable.", "training")
    run_dir: str | None = _field(None, "Folder of the run, new or empty; default: runs/<time>-<model>-<backbone>.", "output")
    report: bool = _field(True, "Write report.html and its figures.", "output")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        _check_choices(self)
        if self.data.val_fraction:
            whole = self.train_split.removesuffix(TRAIN_PART)
            object.__setattr__(self, "train_split", whole + TRAIN_PART)
            object.__setattr__(self, "val_split", whole + VAL_PART)
        for name, least in (("batch_size", 1), ("epochs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least {least}")
        for name in ("learning_rate", "weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise KsegError(f"--{name}={value}: must be a finite number, 0 or more")
        _check_workers(self.workers)
        if self.learning_rate == 0:
            raise KsegError("--learning_rate=0: must be more than 0")

    def to_json(self) -> str:
        """Returns the config as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Reads what to_json wrote. Raises KsegError if it is not that."""
        try:
            values = json.loads(text)
            data = DataConfig(**_tuples(DataConfig, values.pop("data")))
            return cls(data=data, **_tuples(cls, values))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise KsegError(f"not a kseg configuration: {error}") from None


def _overrides() -> type:
    """A dataclass of DataConfig's fields, each None: as in the run. What splits a run's own data is not among them."""
    hints = typing.get_type_hints(DataConfig)
    fields = []
    for field in dataclasses.fields(DataConfig):
        if field.name not in ("val_fraction", "split_seed", "split_group"):
            metadata = {**field.metadata, "help": field.metadata["help"] + " Default: as in the run.", "choices": None}
            fields.append((field.name, hints[field.name] | None, dataclasses.field(default=None, metadata=metadata)))
    return dataclasses.make_dataclass("DataOverrides", fields, frozen=True)


DataOverrides: Any = _overrides()
"""What a trained run's data may be replaced with, for configs to inherit; None stands for the run's own."""


@dataclass(frozen=True)
class TrainedConfig(DataOverrides):
    """A trained run and the data to use it on; None stands for what the run was trained with."""

    run_dir: str | None = _field(None, "Run directory of kseg.train.", "run")
    split: str | None = _field(None, "Split to use; default: the run's validation split.", "run")
    batch_size: int | None = _field(None, "Images a step; default: the run's.", "run")
    workers: int | None = _field(None, "Processes that load images; 0: threads; default: one a core.", "run")

    def __post_init__(self):
        if self.run_dir is None:
            raise KsegError("--run_dir is missing: name the run directory of a training run")
        if self.batch_size is not None and self.batch_size < 1:
            raise KsegError(f"--batch_size={self.batch_size}: must be at least 1")
        _check_workers(self.workers)


def _check_workers(workers):
    if workers is not None and not 0 <= workers <= 1024:
        raise KsegError(f"--workers={workers}: must be between 0 and 1024")


@dataclass(frozen=True)
class ConvertConfig:
    """A checkpoint to convert between PyTorch and Keras."""

    checkpoint: str | None = _field(None, "File to read: .safetensors, .pth, .bin or .ckpt; with --to=torch a .keras.", "files")
    out: str | None = _field(None, "File to write: a .keras; with --to=torch a .safetensors or .pth.", "files")
    overwrite: bool = _field(False, "Replace the file that --out names, if there is one.", "files")
    to: str = _field("keras", "Direction: read a PyTorch checkpoint, or write one.", "files", ("keras", "torch"))
    model: str | None = _field(None, "Model that the checkpoint is of, e.g. deeplabv3plus.", "model")
    backbone: str | None = _field(None, "Backbone of that model; default: the model's own.", "model")
    num_classes: int | None = _field(None, "Classes of the model.", "model")
    output_stride: int | None = _field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    in_channels: int = _field(3, "Channels of the model's images.", "model")
    source: str = _field(
        "auto", "Library whose keys the checkpoint must have; auto takes any.", "model", ("auto", "smp", "torchvision", "timm")
    )
    reset_head: bool = _field(False, "Leave out the checkpoint's last layer; the new model's starts out random.", "model")

    def __post_init__(self):
        _check_choices(self)
        for name in ("checkpoint", "out"):
            if getattr(self, name) is None:
                raise KsegError(f"--{name} is missing: name the file to {'read' if name == 'checkpoint' else 'write'}")
        if self.to == "keras":
            for name in ("model", "num_classes"):
                if getattr(self, name) is None:
                    raise KsegError(f"--{name} is missing: a checkpoint of PyTorch does not say what it is of")
            return
        default = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("model", "backbone", "num_classes", "output_stride", "in_channels", "source", "reset_head"):
            if getattr(self, name) != default[name]:
                raise KsegError(f"--{name} does not go with --to=torch: the .keras file says what it is")


@dataclass(frozen=True)
class ShardsConfig:
    """A data set to write as shards, and where to."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    splits: tuple[str, ...] = _field(("train", "val"), "Splits to write, separated by commas.", "data")
    output_dir: str | None = _field(None, "Folder that the shards' folder is put into.", "output")
    name: str = _field("kseg_data", "Name of the data set, for --tfds_name: small letters, digits and _.", "output")

    def __post_init__(self):
        if self.output_dir is None:
            raise KsegError("--output_dir is missing: name the folder to write the shards into")
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise KsegError(f"--name={self.name}: must be of small letters, digits and _, and start with a letter")
        if not self.splits or not all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", split) for split in self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: name splits of letters, digits and _")


@dataclass(frozen=True)
class EvaluateConfig(TrainedConfig):
    """What to evaluate."""

    output: str | None = _field(None, "Also write the scores to this JSON file.", "output")


@dataclass(frozen=True)
class PredictConfig(TrainedConfig):
    """What to predict, and what to write."""

    submission: str | None = _field(None, "Write the leaderboard's CSV to this file: 256x256 class ids an image.", "output")
    labels_dir: str | None = _field(None, "Write label maps here: palette PNGs at each picture's own size.", "output")
    overlays_dir: str | None = _field(None, "Write pictures with the classes' colours over them here: JPEG.", "output")

    def __post_init__(self):
        super().__post_init__()
        if not (self.submission or self.labels_dir or self.overlays_dir):
            raise KsegError("nothing to write: pass --submission=FILE, --labels_dir=DIR or --overlays_dir=DIR")


@dataclass(frozen=True)
class InspectConfig:
    """What to look at before training."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    splits: tuple[str, ...] = _field(("train", "val"), "Splits to look at; the first is the one that trains.", "data")
    image_size: tuple[int, int] = _field((128, 128), "Size of the network's input, for the augmented pictures.", "input")
    augment: str = _field("none", "Preset of training augmentations to show.", "input")
    samples: int = _field(8, "Pictures on the page, before and after augmentation.", "output")
    seed: int = _field(21, "Chooses the pictures and their augmentation.", "output")
    output_dir: str = _field("inspection", "Folder for inspection.html and inspection.json.", "output")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise KsegError(f"--splits={','.join(self.splits)}: name one split or more, each once")
        for name in ("samples", "seed"):
            if getattr(self, name) < 0:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least 0")


def _tuples(cls, values):
    """JSON has lists where the dataclass has tuples."""
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise KsegError(f"not a kseg configuration: unknown field {unknown[0]!r}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _check_choices(config):
    for field in dataclasses.fields(config):
        choices = field.metadata.get("choices")
        if choices and getattr(config, field.name) not in choices:
            raise KsegError(f"--{field.name}={getattr(config, field.name)}: must be one of {', '.join(choices)}")
