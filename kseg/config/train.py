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
from kseg.config.scale import ScaleConfig
from kseg.utils.errors import KsegError, suggest


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss."""

    loss: str = field(
        "ce",
        "A loss, or a weighted sum such as ce+0.5*dice or focal(gamma=3): ce, focal, ohem, dice, jaccard, tversky, lovasz, "
        "boundary.",
        "loss",
    )
    label_smoothing: float = field(
        0.0, "Label smoothing of the cross entropy: share of the label that is spread over all classes.", "loss"
    )
    class_weights: str = field(
        "none",
        "Class weights of the loss: none, median_frequency or inverse (frequency, both of the training split), or a JSON file "
        "from kseg.inspect_data, as FILE or FILE#KEY.",
        "loss",
    )
    auxiliary_weight: float = field(
        0.0,
        "Weight of the same loss on an auxiliary head, which only training has, on the features c4. 0: no head.",
        "loss",
    )
    classification_weight: float = field(
        0.0,
        "Weight of the loss of smp's classification head, which learns from the labels which classes an image has. 0: no head.",
        "loss",
    )
    loss_chunks: int = field(
        0,
        "Compute the loss in this many chunks of rows, and their logits again in the backward pass: less memory with many "
        "classes (JAX, --loss=ce). 0: all at once.",
        "loss",
    )

    def __post_init__(self):
        check_at_least(self, 0, "label_smoothing", "auxiliary_weight", "classification_weight", "loss_chunks")
        if self.loss_chunks and self.loss.strip() != "ce":
            raise KsegError(f"--loss_chunks={self.loss_chunks}: works with --loss=ce only, not with --loss={self.loss}")
        for name in ("auxiliary_weight", "classification_weight"):
            if self.loss_chunks and getattr(self, name):
                raise KsegError(f"--loss_chunks={self.loss_chunks}: does not work with --{name}; leave one out")
        if self.label_smoothing >= 1:
            raise KsegError(f"--label_smoothing={self.label_smoothing}: must be less than 1")


@dataclass(frozen=True)
class OptimizationConfig:
    """The optimizer, its learning rate, and the precision."""

    optimizer: str = field(
        "adamw",
        "adamw and lion decouple weight decay; adam and sgd add it to the gradient (L2), as in PyTorch.",
        "optimization",
        ("adamw", "adam", "sgd", "lion"),
    )
    learning_rate: float = field(1e-3, "Peak learning rate.", "optimization")
    schedule: str = field(
        "poly",
        "Learning rate over the run. poly: falls to 0 with power 0.9; step: drops at --schedule_milestones; one_cycle: rises "
        "over --warmup_epochs (0: 30% of the run), then falls.",
        "optimization",
        ("poly", "cosine", "step", "one_cycle", "constant"),
    )
    schedule_milestones: tuple[str, ...] = field((), "step: epochs after which the learning rate drops.", "optimization")
    schedule_gamma: float = field(0.1, "step: factor of each drop.", "optimization")
    warmup_epochs: float = field(0.0, "Epochs in which the learning rate rises from 0 to its peak.", "optimization")
    weight_decay: float = field(1e-4, "Weight decay.", "optimization")
    weight_decay_on: str = field(
        "auto",
        "Variables that decay: all, or weights only (no biases, no norm scales and offsets). auto: weights if the optimizer "
        "decouples weight decay, else all.",
        "optimization",
        ("auto", "all", "weights"),
    )
    momentum: float = field(0.9, "Momentum of sgd.", "optimization")
    backbone_lr_multiplier: float = field(1.0, "Factor of the learning rate in the backbone.", "optimization")
    layer_decay: float = field(
        1.0, "Factor of the learning rate from each block of the backbone to the one before it, e.g. 0.9. 1: off.", "optimization"
    )
    clip_norm: float = field(0.0, "Clip the global norm of the gradients to this. 0: off.", "optimization")
    accumulate_steps: int = field(1, "Average the gradients of this many steps for one update.", "optimization")
    ema: float = field(
        0.0,
        "Momentum of an exponential moving average of the weights, e.g. 0.999, which is validated and saved. 0: off.",
        "optimization",
    )
    freeze_backbone_epochs: int = field(
        0, "Freeze the backbone, its batch norm included, for this many first epochs.", "optimization"
    )
    precision: str = field(
        "float32",
        "Precision that layers compute in. Variables, batch norm's statistics, logits and loss stay float32.",
        "optimization",
        ("float32", "mixed_bfloat16", "mixed_float16"),
    )
    remat: bool = field(
        False, "Recompute the backbone's activations in the backward pass: less memory, more time (JAX).", "optimization"
    )

    def __post_init__(self):
        check_choices(self)
        check_at_least(self, 0, "learning_rate", "backbone_lr_multiplier", "schedule_gamma", "weight_decay", "warmup_epochs")
        check_at_least(self, 0, "clip_norm", "freeze_backbone_epochs")
        check_at_least(self, 1, "accumulate_steps")
        for name in ("learning_rate", "backbone_lr_multiplier"):
            if getattr(self, name) == 0:
                raise KsegError(f"--{name}=0: must be more than 0")
        if not 0 < self.layer_decay <= 1:
            raise KsegError(f"--layer_decay={self.layer_decay}: must be more than 0, and at most 1")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least 0 and less than 1")
        if (self.schedule == "step") != bool(self.schedule_milestones):
            raise KsegError("--schedule=step and --schedule_milestones=EPOCH,... go together: pass both or neither")
        self.milestones()

    def milestones(self) -> list[float]:
        """Returns schedule_milestones as numbers. Raises KsegError unless they are numbers that rise."""
        try:
            epochs = [float(text) for text in self.schedule_milestones]
        except ValueError:
            epochs = [0.0]
        if any(not before < after < float("inf") for before, after in zip([0.0, *epochs], epochs, strict=False)):
            given = ",".join(self.schedule_milestones)
            raise KsegError(f"--schedule_milestones={given}: must be numbers of epochs, above 0 and rising")
        return epochs


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
