"""Options of kseg.train about the loss and the optimizer."""

from dataclasses import dataclass

from kseg.config.fields import check_at_least, check_choices, field
from kseg.utils.errors import KsegError


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
