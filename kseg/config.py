"""What a run is told: frozen dataclasses, validated, JSON both ways. Knows neither absl nor Keras.

Every field carries its help text and group, from which kseg.flags makes the command line.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kseg.errors import KsegError


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

    dataset: str = _field("synthetic", "Data source: coco, or synthetic (an offline demonstration, not a benchmark).", "data")
    data_dir: str | None = _field(None, "Folder of the data set (coco), or where to keep the synthetic one.", "data")
    annotations: str = _field("annotations/{split}.json", "COCO file of a split, below data_dir.", "data")
    images: str = _field(
        "images/{split}", "Image folder of a split, below data_dir; file_name in the COCO file starts there.", "data"
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

    def __post_init__(self):
        _check_choices(self)
        if self.dataset != "synthetic" and self.data_dir is None:
            raise KsegError(f"--dataset={self.dataset} needs --data_dir, the folder that holds the data")


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
    seed: int = _field(21, "One seed makes a run repeatable.", "training")
    run_dir: str | None = _field(None, "Folder of the run, new or empty; default: runs/<time>-<model>-<backbone>.", "output")
    report: bool = _field(True, "Write report.html and its figures.", "output")

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        _check_choices(self)
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


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate; None stands for what the run was trained with."""

    run_dir: str | None = _field(None, "Run directory of kseg.train.", "run")
    split: str | None = _field(None, "Split to score; default: the run's validation split.", "run")
    batch_size: int | None = _field(None, "Images a step; default: the run's.", "run")
    workers: int | None = _field(None, "Processes that load images; 0: threads; default: one a core.", "run")
    dataset: str | None = _field(None, "Data source, if not the run's.", "data")
    data_dir: str | None = _field(None, "Folder of the data set, if not the run's.", "data")
    annotations: str | None = _field(None, "COCO file pattern, if not the run's.", "data")
    images: str | None = _field(None, "Image folder pattern, if not the run's.", "data")
    background: bool | None = _field(None, "Whether uncovered pixels are class 0, if not as in the run.", "data")
    ignore_categories: tuple[str, ...] | None = _field(None, "Categories that do not count, if not the run's.", "data")
    on_bad_sample: str | None = _field(None, "What to do about an unusable sample: error or skip.", "data")
    output: str | None = _field(None, "Also write the scores to this JSON file.", "output")

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
