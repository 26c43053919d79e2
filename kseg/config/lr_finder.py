"""Options of kseg.find_lr: a training run and a range of learning rates."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from kseg.config.fields import check_at_least, field
from kseg.config.train import TrainConfig
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class LrFinderConfig:
    """A range of learning rates, and the training run to try them with."""

    GROUPS: ClassVar[tuple[str, ...]] = ("range", *TrainConfig.GROUPS)

    lr_min: float = field(1e-6, "Learning rate of the first step.", "range")
    lr_max: float = field(1.0, "Learning rate of the last step.", "range")
    lr_steps: int = field(100, "Steps between the two, each by the same factor; stops early if the loss diverges.", "range")
    output: str = field("find_lr.png", "Picture to write: the loss over the learning rate.", "range", value="FILE")
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self):
        check_at_least(self, 0, "lr_min", "lr_max")
        check_at_least(self, 10, "lr_steps")
        if not 0 < self.lr_min < self.lr_max:
            raise KsegError(f"--lr_min={self.lr_min}: must be more than 0 and less than --lr_max={self.lr_max}")
