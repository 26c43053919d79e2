"""Options of kseg.evaluate, and those it shares with kseg.predict: a trained model, how it predicts, and its data."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from kseg.config.data import DataOverrides
from kseg.config.fields import (
    check_at_least,
    check_choices,
    check_workers,
    compilation_cache_field,
    distribution_field,
    field,
    parse_size,
    workers_field,
)
from kseg.config.scale import OVERLAP
from kseg.utils.errors import KsegError, suggest

TTA = ("hflip", "vflip", "flips", "turns", "scales")
"""Values of --tta (kseg.inference.tta.views)."""
MODEL_SOURCE = "a run directory, a .keras file, a model folder of kseg.hub, smp or transformers, or hf://owner/name[@revision]"
_PREDICTION = "prediction"


@dataclass(frozen=True)
class TrainedConfig:
    """A trained model, how it predicts, and the data it is used on. None stands for the value of the model's training run."""

    GROUPS: ClassVar[tuple[str, ...]] = ("model", "input", "output")

    model: str | None = field(None, f"Trained model: {MODEL_SOURCE}; or an export.", "model", value="SOURCE")
    ensemble: tuple[str, ...] = field(
        (), "Further models, each as in --model: the mean of all models' probabilities counts.", "model"
    )
    split: str | None = field(None, "Split to use; default: the run's validation split.", "input")
    image_size: tuple[int, int] | None = field(
        None,
        "Resize images to this: 256, or 192x256 (height x width); default: the size of training, "
        "or windows, if the run had --val_window.",
        _PREDICTION,
    )
    window: tuple[int, int] | None = field(
        None,
        "Predict images at their own size, by overlapping windows of this size: 512, or 384x512; default: as --val_window of "
        "the run.",
        _PREDICTION,
    )
    overlap: float = field(OVERLAP, "Share of a window's side that it has in common with the next, at least.", _PREDICTION)
    tta: tuple[str, ...] = field(
        (),
        "Test-time augmentation: average over hflip, vflip, flips (both), turns (quarter turns; square inputs), scales "
        "(0.75, 1, 1.25), and all their combinations.",
        _PREDICTION,
    )
    batch_size: int | None = field(None, "Images, or windows, per step; default: the run's.", _PREDICTION)
    data: DataOverrides = dataclasses.field(default_factory=DataOverrides)
    workers: int | None = workers_field()
    distribution: str = distribution_field()
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        if not self.model:
            raise KsegError(f"--model is missing: name {MODEL_SOURCE}")
        for name in ("image_size", "window"):
            if (size := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse_size(size, name))
        if self.window and self.image_size:
            raise KsegError("--window predicts images at their own size; leave --image_size out")
        if self.window and self.distribution != "none":
            raise KsegError(f"--window: computes on one device; leave --distribution={self.distribution} out")
        if not 0 <= self.overlap <= 0.9:
            raise KsegError(f"--overlap={self.overlap}: must be between 0 and 0.9")
        for name in self.tta:
            if name not in TTA:
                raise KsegError(f"--tta={name}: must be one of {', '.join(TTA)}{suggest(name, TTA)}")
        check_at_least(self, 1, "batch_size")
        check_workers(self.workers)
        check_choices(self)


@dataclass(frozen=True)
class EvaluateConfig(TrainedConfig):
    """Options of kseg.evaluate."""

    output: str | None = field(None, "Also write the scores to this JSON file.", "output", value="FILE")
    per_image: str | None = field(None, "Also write the scores of each image to this CSV file.", "output", value="FILE")
    boundary: bool = field(False, "Also score the outlines of classes: boundary IoU. Takes time.", "output")
    calibration: bool = field(False, "Also score the probabilities: expected calibration error. Takes time.", "output")
