"""What evaluate and export are told, and predict partly (predict.py): a trained model, the data to use it on, what to write."""

from dataclasses import dataclass

from kseg.config.data import DataOverrides
from kseg.config.fields import (
    DISTRIBUTIONS,
    check_at_least,
    check_choices,
    check_workers,
    compilation_cache_field,
    field,
    parse_size,
)
from kseg.utils.errors import KsegError, suggest

TTA = ("hflip", "vflip", "flips", "turns", "scales")
"""What --tta may be told (kseg.inference.tta.views)."""


@dataclass(frozen=True)
class TrainedConfig(DataOverrides):
    """A trained model, the data to use it on, and how; None stands for what the run was trained with."""

    run_dir: str | None = field(None, "Run directory of kseg.train.", "run")
    model_file: str | None = field(None, "A .keras file instead of a run; data flags then default as for kseg.train.", "run")
    ensemble: tuple[str, ...] = field(
        (), "Further run directories or .keras files, separated by commas: the mean of all models' probabilities counts.", "run"
    )
    split: str | None = field(None, "Split to use; default: the run's validation split.", "run")
    batch_size: int | None = field(None, "Images, or windows, a step; default: the run's.", "run")
    image_size: tuple[int, int] | None = field(
        None, "Size that images are resized to: 256, or 192x256 (height x width); default: the run's.", "run"
    )
    window: tuple[int, int] | None = field(
        None, "Do not resize images, predict them at their own size by windows of this size: 512, or 384x512.", "run"
    )
    overlap: float = field(0.25, "Least part of a window's side that it shares with the next.", "run")
    tta: tuple[str, ...] = field(
        (),
        "Test-time augmentation: average over any of hflip, vflip, flips (both), turns (quarter turns; square inputs) and scales "
        "(0.75, 1, 1.25), and what they make together.",
        "run",
    )
    workers: int | None = field(None, "Processes that load images; 0: threads; default: one a core.", "run")
    distribution: str = field("none", "data_parallel: every batch is divided among all devices (JAX only).", "run", DISTRIBUTIONS)
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        if self.run_dir is None and self.model_file is None:
            raise KsegError("--run_dir is missing: name the run directory of a training run, or a model with --model_file=FILE")
        if self.run_dir is not None and self.model_file is not None:
            raise KsegError(f"--model_file={self.model_file}: is used instead of a run; leave --run_dir out")
        for name in ("image_size", "window"):
            if (size := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse_size(size, name))
        if self.window and self.image_size:
            raise KsegError("--window leaves images at their own size; leave --image_size out")
        if self.window and self.distribution != "none":
            raise KsegError(f"--window: computes on one device; leave --distribution={self.distribution} out")
        if not 0 <= self.overlap <= 0.9:
            raise KsegError(f"--overlap={self.overlap}: must be between 0 and 0.9")
        for name in self.tta:
            if name not in TTA:
                raise KsegError(f"--tta={name}: must be of {', '.join(TTA)}{suggest(name, TTA)}")
        check_at_least(self, 1, "batch_size")
        check_workers(self.workers)
        check_choices(self)


@dataclass(frozen=True)
class EvaluateConfig(TrainedConfig):
    """What to evaluate."""

    output: str | None = field(None, "Also write the scores to this JSON file.", "output")
    per_image: str | None = field(None, "Also write every image's scores to this CSV file.", "output")
    boundary: bool = field(False, "Also score the classes' outlines: boundary IoU. Takes time.", "output")
    calibration: bool = field(False, "Also score the probabilities: expected calibration error. Takes time.", "output")
