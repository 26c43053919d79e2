"""Everything that decides a training run, in groups."""

import dataclasses
from dataclasses import dataclass

from kseg.config.data import TRAIN_PART, VAL_PART, DataConfig
from kseg.config.fields import (
    DISTRIBUTIONS,
    check_at_least,
    check_choices,
    check_not_empty,
    check_workers,
    compilation_cache_field,
    field,
    from_json,
    parse_size,
    to_json,
)
from kseg.utils.errors import KsegError, suggest


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a run minimises."""

    loss: str = field(
        "ce",
        "A sum of losses, such as ce+0.5*dice or focal(gamma=3): ce, focal, ohem, dice, jaccard, tversky, lovasz, boundary "
        "(docs/training.md).",
        "loss",
    )
    label_smoothing: float = field(0.0, "Share of the label that cross entropy spreads over all classes.", "loss")
    class_weights: str = field(
        "none",
        "Weights of the classes in the loss: none, median_frequency or inverse (over the training split), or a JSON file, "
        "FILE or FILE#KEY, such as kseg.inspect_data writes.",
        "loss",
    )
    auxiliary_weight: float = field(
        0.0,
        "Weight of the same loss on an auxiliary head on the features c4, which only training has; 0: no head.",
        "loss",
    )
    loss_chunks: int = field(
        0,
        "Compute loss and scores in so many bands of rows, so that logits of the image's size never exist as a whole: less "
        "memory where there are many classes (JAX, --loss=ce). 0: at once.",
        "loss",
    )

    def __post_init__(self):
        check_at_least(self, 0, "label_smoothing", "auxiliary_weight", "loss_chunks")
        if self.loss_chunks and self.loss.strip() != "ce":
            raise KsegError(f"--loss_chunks={self.loss_chunks}: goes with --loss=ce alone, not with --loss={self.loss}")
        if self.loss_chunks and self.auxiliary_weight:
            raise KsegError(f"--loss_chunks={self.loss_chunks}: does not go with --auxiliary_weight; leave one of them out")
        if self.label_smoothing >= 1:
            raise KsegError(f"--label_smoothing={self.label_smoothing}: must be less than 1")


@dataclass(frozen=True)
class OptimizationConfig:
    """How it is minimised."""

    optimizer: str = field(
        "adamw",
        "adamw and lion: weight decay is decoupled; adam and sgd: as PyTorch's, L2 in the gradient.",
        "optimization",
        ("adamw", "adam", "sgd", "lion"),
    )
    learning_rate: float = field(1e-3, "Peak learning rate.", "optimization")
    backbone_lr_multiplier: float = field(1.0, "The backbone's learning rate, as a part of the others'.", "optimization")
    schedule: str = field(
        "poly",
        "Learning rate over the run: poly falls to 0 with power 0.9; step falls at --schedule_milestones; one_cycle rises over "
        "--warmup_epochs (0: 30% of the run), then falls.",
        "optimization",
        ("poly", "cosine", "step", "one_cycle", "constant"),
    )
    schedule_milestones: tuple[str, ...] = field((), "step: epochs after which the learning rate drops.", "optimization")
    schedule_gamma: float = field(0.1, "step: what it is multiplied by there.", "optimization")
    warmup_epochs: float = field(0.0, "Epochs over which the learning rate first rises from 0.", "optimization")
    weight_decay: float = field(1e-4, "Weight decay, of the kind that the optimizer has.", "optimization")
    weight_decay_on: str = field(
        "auto",
        "What decays: all, or weights, not biases and norms' scales and offsets; auto: weights where it is decoupled, else all.",
        "optimization",
        ("auto", "all", "weights"),
    )
    momentum: float = field(0.9, "sgd: its momentum.", "optimization")
    clip_norm: float = field(0.0, "Largest norm of all gradients together; 0: any.", "optimization")
    accumulate_steps: int = field(1, "Steps whose gradients are averaged to one update.", "optimization")
    ema: float = field(
        0.0, "Momentum of averaged weights, e.g. 0.999, which are then what is validated and saved; 0: none.", "optimization"
    )
    freeze_backbone_epochs: int = field(
        0, "First epochs in which the backbone, batch norm included, stays as it is.", "optimization"
    )
    precision: str = field(
        "float32",
        "What layers compute in; variables, batch norm's statistics, logits and loss are float32 always.",
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
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise KsegError(f"--{name}={getattr(self, name)}: must be at least 0 and less than 1")
        if (self.schedule == "step") != bool(self.schedule_milestones):
            raise KsegError("--schedule=step and --schedule_milestones=EPOCH,... go together: pass both or neither")
        self.milestones()

    def milestones(self) -> list[float]:
        """Returns schedule_milestones as numbers of epochs. Raises KsegError unless they are, and rise."""
        try:
            epochs = [float(text) for text in self.schedule_milestones]
        except ValueError:
            epochs = [0.0]
        if any(not before < after < float("inf") for before, after in zip([0.0, *epochs], epochs, strict=False)):
            given = ",".join(self.schedule_milestones)
            raise KsegError(f"--schedule_milestones={given}: must be numbers of epochs, more than 0, each more than the last")
        return epochs


@dataclass(frozen=True)
class TrackingConfig:
    """What is told of a run, and to whom."""

    report: bool = field(True, "Write report.html and its figures.", "output")
    keep_checkpoints: int = field(2, "Checkpoints to keep, the newest, beside the best epoch's.", "output")
    checkpoint_steps: int = field(0, "Also save a checkpoint every so many steps of an epoch; 0: after epochs only.", "output")
    tensorboard: bool = field(
        False, "Write scalars and validation pictures of every epoch to the run's folder tensorboard/.", "output"
    )
    wandb: str | None = field(None, "Also log to this project of Weights & Biases (pip install wandb).", "output")
    mlflow: str | None = field(None, "Also log to this experiment of MLflow (pip install mlflow).", "output")

    def __post_init__(self):
        check_at_least(self, 1, "keep_checkpoints")
        check_at_least(self, 0, "checkpoint_steps")
        check_not_empty(self, "wandb", "mlflow")


COLUMNS = {"loss": "min", "mean_iou": "max", "learning_rate": "min"}
"""Which values are better of the columns of metrics.csv whose names say so; those of validation begin with val_."""


def better(monitor: str, mode: str) -> str:
    """Returns "max" or "min" for a column; `mode` may also be "auto". Raises KsegError if its name does not tell."""
    if mode != "auto":
        return mode
    if (name := monitor.removeprefix("val_")) not in COLUMNS:
        known = suggest(monitor, [*COLUMNS, *("val_" + column for column in ("loss", "mean_iou"))])
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
class DebugConfig:
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
    compilation_cache: str = compilation_cache_field()

    distribution: str = field(
        "none", "data_parallel: every batch is divided among all devices (JAX only).", "devices", DISTRIBUTIONS
    )
    coordinator: str | None = field(
        None,
        "One run of several processes: HOST:PORT of process 0, or auto, as SLURM, Open MPI, Kubernetes or the TPU's environment "
        "says.",
        "devices",
    )
    num_processes: int | None = field(None, "Processes of the run, with --coordinator=HOST:PORT.", "devices")
    process_id: int | None = field(None, "Number of this process, from 0, with --coordinator=HOST:PORT.", "devices")
    heartbeat_timeout: int = field(100, "Seconds after which a process that does not answer is taken for dead.", "devices")

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
    double_normalization: bool = field(
        False,
        "A mistake, kept to reproduce those who made it: images are divided by 255 once more before the mean and std, so that "
        "the network sees next to nothing of them. The saved model does the same.",
        "model",
    )
    output_stride: int | None = field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    batch_size: int = field(8, "Images a step.", "training")
    epochs: int = field(12, "Passes over the training split.", "training")
    seed: int = field(21, "One seed makes a run repeatable.", "training")
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)
    selection: SelectionConfig = dataclasses.field(default_factory=SelectionConfig)
    debug: DebugConfig = dataclasses.field(default_factory=DebugConfig)
    run_dir: str | None = field(None, "Folder of the run, new or empty; default: runs/<time>-<model>-<backbone>.", "output")
    resume: bool = field(
        False,
        "Go on with the run in --run_dir from its last checkpoint, or start it if there is none. Other flags may be left out.",
        "output",
    )
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
        if self.resume and self.run_dir is None:
            raise KsegError("--resume needs --run_dir, the folder of the run to go on with")

    def to_json(self) -> str:
        """Returns the config as indented JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Reads what to_json wrote. Raises KsegError if it is not that."""
        return from_json(cls, text)
