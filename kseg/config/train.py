"""Everything that decides a training run, in groups."""

import dataclasses
from dataclasses import dataclass

from kseg.config.data import TRAIN_PART, VAL_PART, DataConfig
from kseg.config.fields import (
    check_at_least,
    check_choices,
    check_not_empty,
    check_workers,
    field,
    from_json,
    parse_size,
    to_json,
)
from kseg.errors import KsegError, nearest


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a run minimises."""

    class_weights: str = field(
        "none",
        "Weights of the classes in the loss: none, median_frequency or inverse (over the training split), or a JSON file, "
        "FILE or FILE#KEY, such as kseg.inspect_data writes.",
        "loss",
    )


@dataclass(frozen=True)
class OptimizationConfig:
    """How it is minimised."""

    optimizer: str = field(
        "adamw", "adamw: weight decay is decoupled; adam: as PyTorch's, L2 in the gradient.", "optimization", ("adamw", "adam")
    )
    learning_rate: float = field(1e-3, "Peak learning rate.", "optimization")
    schedule: str = field(
        "poly", "Learning rate over the run: poly falls to 0 with power 0.9.", "optimization", ("poly", "cosine", "constant")
    )
    warmup_epochs: float = field(0.0, "Epochs over which the learning rate first rises from 0.", "optimization")
    weight_decay: float = field(1e-4, "Weight decay, of the kind that the optimizer has.", "optimization")

    def __post_init__(self):
        check_choices(self)
        check_at_least(self, 0, "learning_rate", "weight_decay", "warmup_epochs")
        if self.learning_rate == 0:
            raise KsegError("--learning_rate=0: must be more than 0")


@dataclass(frozen=True)
class TrackingConfig:
    """What is told of a run, and to whom."""

    report: bool = field(True, "Write report.html and its figures.", "output")
    tensorboard: bool = field(
        False, "Write scalars and validation pictures of every epoch to the run's folder tensorboard/.", "output"
    )
    wandb: str | None = field(None, "Also log to this project of Weights & Biases (pip install wandb).", "output")
    mlflow: str | None = field(None, "Also log to this experiment of MLflow (pip install mlflow).", "output")

    def __post_init__(self):
        check_not_empty(self, "wandb", "mlflow")


COLUMNS = {"loss": "min", "mean_iou": "max", "learning_rate": "min", "seconds": "min", "images_per_second": "max"}
"""Which values are better of the columns of metrics.csv whose names say so; those of validation begin with val_."""


def better(monitor: str, mode: str) -> str:
    """Returns "max" or "min" for a column; `mode` may also be "auto". Raises KsegError if its name does not tell."""
    if mode != "auto":
        return mode
    if (name := monitor.removeprefix("val_")) not in COLUMNS:
        known = nearest(monitor, [*COLUMNS, *("val_" + column for column in ("loss", "mean_iou"))])
        raise KsegError(f"--monitor={monitor}: pass --monitor_mode=max or min for it{known}")
    return COLUMNS[name]


@dataclass(frozen=True)
class SelectionConfig:
    """Which epoch a run keeps as its best, and when it has seen enough."""

    monitor: str = field("val_mean_iou", "Column of metrics.csv by which an epoch is the best.", "training")
    monitor_mode: str = field(
        "auto", "Which values of --monitor are better; auto: as its name says.", "training", ("auto", "max", "min")
    )
    early_stopping: int | None = field(
        None, "End the run after so many epochs without a better --monitor; default: never.", "training"
    )

    def __post_init__(self):
        check_choices(self)
        check_not_empty(self, "monitor")
        check_at_least(self, 1, "early_stopping")
        better(self.monitor, self.monitor_mode)


@dataclass(frozen=True)
class TrialConfig:
    """Short runs that show whether a long one would work."""

    dry_run: bool = field(
        False, "Do everything once, with one batch, say what the run would be and need, and leave nothing behind.", "training"
    )
    overfit_batches: int | None = field(
        None,
        "Train on so many batches, over and over and without augmentation, and validate on them: "
        "a model that can learn at all comes near an mIoU of 1.",
        "training",
    )

    def __post_init__(self):
        check_at_least(self, 1, "overfit_batches")


@dataclass(frozen=True)
class DeviceConfig:
    """What computes."""

    workers: int | None = field(
        None, "Processes that load and augment images; 0: threads of the main process; default: one a core.", "devices"
    )

    def __post_init__(self):
        check_workers(self.workers)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train_split: str = field("train", "Split that trains.", "data")
    val_split: str = field("val", "Split that validates, after every epoch and at the end.", "data")
    image_size: tuple[int, int] = field((128, 128), "Size of the network's input: 256, or 192x256 (height x width).", "input")
    augment: str = field(
        "none",
        "Training augmentations: a preset (none, light, strong, aug, ...; docs/data.md), albumentations transforms such as "
        "'HorizontalFlip(p=0.5),Blur()', or a file that albumentations.save wrote (.json, .yaml).",
        "input",
    )
    model: str = field("deeplabv3plus", "Model; an unknown name lists what there is.", "model")
    backbone: str | None = field(None, "Backbone, e.g. keras_cv/resnet50; default: the model's own.", "model")
    backbone_weights: str = field(
        "none",
        "Initial weights of the backbone: none; a tag such as imagenet (downloaded); hf://owner/repo[@revision]; or a file.",
        "model",
    )
    output_stride: int | None = field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    batch_size: int = field(8, "Images a step.", "training")
    epochs: int = field(12, "Passes over the training split.", "training")
    seed: int = field(21, "One seed makes a run repeatable.", "training")
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    trial: TrialConfig = dataclasses.field(default_factory=TrialConfig)
    run_dir: str | None = field(None, "Folder of the run, new or empty; default: runs/<time>-<model>-<backbone>.", "output")
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    devices: DeviceConfig = dataclasses.field(default_factory=DeviceConfig)

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        check_choices(self)
        if self.data.val_fraction:
            whole = self.train_split.removesuffix(TRAIN_PART)
            object.__setattr__(self, "train_split", whole + TRAIN_PART)
            object.__setattr__(self, "val_split", whole + VAL_PART)
        check_at_least(self, 1, "batch_size", "epochs")
        check_at_least(self, 0, "seed")

    def to_json(self) -> str:
        """Returns the config as indented JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Reads what to_json wrote. Raises KsegError if it is not that."""
        return from_json(cls, text)
