"""Options of kseg.train, in groups."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from kseg.config.data import TRAIN_PART, VAL_PART, DataConfig
from kseg.config.fields import (
    check_architecture,
    check_at_least,
    check_choices,
    check_not_empty,
    check_workers,
    compilation_cache_field,
    distribution_field,
    field,
    from_json,
    parse_size,
    python_field,
    to_json,
    workers_field,
)
from kseg.config.optimization import ObjectiveConfig, OptimizationConfig
from kseg.config.scale import ScaleConfig
from kseg.utils.errors import KsegError, suggest


@dataclass(frozen=True)
class TrackingConfig:
    """Logging and checkpoint options."""

    report: bool = field(True, "Write report.html and its figures.", "output")
    keep_checkpoints: int = field(2, "Number of newest checkpoints to keep, beside the best epoch's.", "output")
    checkpoint_steps: int = field(0, "Also save a checkpoint every N steps of an epoch. 0: after epochs only.", "output")
    tensorboard: bool = field(
        False, "Write scalars and validation images of every epoch to tensorboard/ in the run directory.", "output"
    )
    wandb: str | None = field(None, "Also log to this project of Weights & Biases (pip install wandb).", "output")
    mlflow: str | None = field(None, "Also log to this experiment of MLflow (pip install mlflow).", "output")

    def __post_init__(self):
        check_at_least(self, 1, "keep_checkpoints")
        check_at_least(self, 0, "checkpoint_steps")
        check_not_empty(self, "wandb", "mlflow")


COLUMNS = {"loss": "min", "mean_iou": "max", "learning_rate": "min"}
"""Columns of metrics.csv, without val_, and which of their values are better."""


def better(monitor: str, mode: str) -> str:
    """Returns "max" or "min" for a column of metrics.csv.

    mode: "max", "min" or "auto". Raises KsegError if it is auto and the column is not one of COLUMNS.
    """
    if mode != "auto":
        return mode
    if (name := monitor.removeprefix("val_")) not in COLUMNS:
        known = suggest(monitor, [*COLUMNS, *("val_" + column for column in ("loss", "mean_iou"))])
        raise KsegError(f"--monitor={monitor}: pass --monitor_mode=max or min for it{known}")
    return COLUMNS[name]


@dataclass(frozen=True)
class SelectionConfig:
    """Best checkpoint and early stopping."""

    monitor: str = field("val_mean_iou", "Column of metrics.csv that selects the best epoch.", "training")
    monitor_mode: str = field(
        "auto", "Which values of --monitor are better; auto: known by its name.", "training", ("auto", "max", "min")
    )
    early_stopping: int | None = field(
        None, "Stop after this many epochs without a better --monitor; default: never.", "training"
    )

    def __post_init__(self):
        check_choices(self)
        check_not_empty(self, "monitor")
        check_at_least(self, 1, "early_stopping")
        better(self.monitor, self.monitor_mode)


@dataclass(frozen=True)
class DebugConfig:
    """Short trial runs."""

    dry_run: bool = field(
        False, "Run everything once with one batch, report size, time and memory, and keep nothing.", "training"
    )
    overfit_batches: int | None = field(
        None,
        "Train on only this many batches, without augmentation, and validate on them: the mIoU of a model that can learn "
        "approaches 1.",
        "training",
    )

    def __post_init__(self):
        check_at_least(self, 1, "overfit_batches")


@dataclass(frozen=True)
class DeviceConfig:
    """Devices and processes."""

    workers: int | None = workers_field()
    distribution: str = distribution_field()
    coordinator: str | None = field(
        None,
        "For a run of several processes: HOST:PORT of process 0; or auto, for SLURM, Open MPI, Kubernetes and TPU pods.",
        "devices",
        value="HOST:PORT",
    )
    num_processes: int | None = field(None, "Number of processes, with --coordinator=HOST:PORT.", "devices")
    process_id: int | None = field(None, "Index of this process, from 0, with --coordinator=HOST:PORT.", "devices")
    heartbeat_timeout: int = field(100, "Seconds without an answer after which a process counts as dead.", "devices")
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        check_workers(self.workers)
        check_choices(self)
        check_at_least(self, 1, "num_processes")
        check_at_least(self, 5, "heartbeat_timeout")
        check_at_least(self, 0, "process_id")
        if self.coordinator is None:
            for name in ("num_processes", "process_id"):
                if getattr(self, name) is not None:
                    raise KsegError(f"--{name}={getattr(self, name)}: needs --coordinator=HOST:PORT, the address of process 0")
            return
        if self.distribution == "none":
            raise KsegError(f"--coordinator={self.coordinator}: several processes need --distribution=data_parallel")
        if self.coordinator == "auto":
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise KsegError(f"--coordinator={self.coordinator}: expected HOST:PORT, such as node0:12345, or auto")
        if self.num_processes is None or self.process_id is None:
            raise KsegError(f"--coordinator={self.coordinator}: needs --num_processes=N and --process_id=I beside it")
        if self.process_id >= self.num_processes:
            raise KsegError(f"--process_id={self.process_id}: must be below --num_processes={self.num_processes}")


@dataclass(frozen=True)
class PythonConfig:
    """Notes about objects given to kseg.Segmenter, none of them a flag.

    initial_model: the model that training began from, as "python:NAME". metrics, callbacks: those beside kseg's, "python:CLASS"
    each.
    """

    initial_model: str | None = python_field(None)
    metrics: tuple[str, ...] = python_field(())
    callbacks: tuple[str, ...] = python_field(())


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a training run. The order of the fields is that of --help."""

    GROUPS: ClassVar[tuple[str, ...]] = ("model", "data", "input", "training")

    model: str = field("deeplabv3plus", "Architecture; an unknown name lists all.", "model")
    backbone: str | None = field(
        None,
        "Backbone, e.g. resnet50, tu-convnext_tiny or keras_cv/resnet50; default: the model's own, or keras_cv/resnet50 if that "
        "is one of keras-cv without weights and the data are real.",
        "model",
    )
    backbone_weights: str = field(
        "auto",
        "Initial weights of the backbone: none; a tag such as imagenet (downloaded); hf://owner/name[@revision]; or a file. "
        "auto: imagenet on real data, if the backbone has it.",
        "model",
    )
    init: str | None = field(
        None,
        "Start from a whole model: a run directory, a .keras file, a model folder, hf://owner/name[@revision], or a PyTorch "
        "checkpoint (then with --model and --backbone). Classes of the same name keep their weights.",
        "model",
        value="SOURCE",
    )
    output_stride: int | None = field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    model_options: str | None = field(
        None, "Options of the model, e.g. depth=4,attention=scse for unet.", "model", value="NAME=VALUE,..."
    )
    double_normalization: bool = field(
        False,
        "Divide images by 255 a second time before normalization. A mistake of some published runs, kept to reproduce them; the "
        "network sees almost nothing.",
        "model",
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train_split: str = field("train", "Split to train on.", "data")
    val_split: str = field("val", "Split to validate on, after every epoch and at the end.", "data")
    image_size: tuple[int, int] = field((128, 128), "Size of the network's input: 256, or 192x256 (height x width).", "input")
    augment: str = field(
        "none",
        "Training augmentation: a preset (none, light, strong, aug, ...), albumentations transforms such as "
        "'HorizontalFlip(p=0.5),Blur()', or a file of albumentations.save (.json, .yaml).",
        "input",
    )
    scale: ScaleConfig = dataclasses.field(default_factory=ScaleConfig)
    epochs: int = field(12, "Passes over the training split.", "training")
    batch_size: int = field(8, "Images per step.", "training")
    seed: int = field(21, "Random seed. The same seed gives the same run.", "training")
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    debug: DebugConfig = dataclasses.field(default_factory=DebugConfig)
    run_dir: str | None = field(
        None, "Folder of the run, new or empty; default: runs/<time>-<model>-<backbone>.", "output", value="DIR"
    )
    resume: bool = field(
        False,
        "Continue the run in --run_dir from its last checkpoint, or start it if there is none. Its other flags may be left out.",
        "output",
    )
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    devices: DeviceConfig = dataclasses.field(default_factory=DeviceConfig)
    python: PythonConfig = dataclasses.field(default_factory=PythonConfig)

    def __post_init__(self):
        object.__setattr__(self, "image_size", parse_size(self.image_size))
        check_choices(self)
        check_architecture(
            self.model, f"; to start from its weights: --init={self.model}; to continue a run: --resume --run_dir=R"
        )
        if self.data.val_fraction:
            whole = self.train_split.removesuffix(TRAIN_PART)
            object.__setattr__(self, "train_split", whole + TRAIN_PART)
            object.__setattr__(self, "val_split", whole + VAL_PART)
        check_at_least(self, 1, "batch_size", "epochs")
        check_at_least(self, 0, "seed")
        check_not_empty(self, "backbone_weights", "init", "model_options")
        if self.resume and self.run_dir is None:
            raise KsegError("--resume needs --run_dir, the folder of the run to continue")

    def to_json(self) -> str:
        """Returns the config as indented JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Reads the JSON of to_json. Raises KsegError for other text."""
        return from_json(cls, text)
