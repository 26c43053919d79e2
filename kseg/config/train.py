"""Everything that decides a training run, in groups."""

import dataclasses
from dataclasses import dataclass

from kseg.config.data import TRAIN_PART, VAL_PART, DataConfig
from kseg.config.fields import check_at_least, check_choices, check_workers, field, from_json, parse_size, to_json
from kseg.errors import KsegError


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
