"""Options of kseg.train that choose the scale at which the network sees images."""

from dataclasses import dataclass
from typing import Any

from kseg.config.fields import as_typed, field, parse_size

OVERLAP = 0.25
"""Default of --overlap, which the evaluation at the end of a run has, too."""


@dataclass(frozen=True)
class ScaleConfig:
    """The scale at which the network sees images."""

    val_window: tuple[int, int] | None = field(
        None,
        "Validate images at their own size, by windows of this size: 512, or 384x512. After every epoch they lie side by side, "
        "at the end they overlap. Default: resize images to --image_size.",
        "input",
    )

    def __post_init__(self):
        if self.val_window is not None:
            object.__setattr__(self, "val_window", parse_size(self.val_window, "val_window"))

    def validation(self, image_size: tuple[int, int]) -> str:
        """Returns how images are validated after every epoch. image_size: (height, width) of the network's input."""
        if self.val_window is not None:
            return f"windows of {as_typed(self.val_window)}"
        return f"images resized to {as_typed(image_size)}"

    def prediction(self) -> dict[str, Any]:
        """Returns what the evaluation at the end has in common with one by --window, for its file."""
        return {} if self.val_window is None else {"window": as_typed(self.val_window), "overlap": OVERLAP}

    def evaluation(self) -> str:
        """Returns how the best epoch is scored at the end; "" if images are resized to the network's input."""
        return "" if self.val_window is None else f"by overlapping windows of {as_typed(self.val_window)}"
