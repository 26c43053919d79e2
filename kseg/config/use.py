"""What evaluate and predict are told: a trained run and the data to use it on."""

from dataclasses import dataclass

from kseg.config.data import DataOverrides
from kseg.config.fields import DISTRIBUTIONS, check_choices, check_workers, compilation_cache_field, field
from kseg.errors import KsegError


@dataclass(frozen=True)
class TrainedConfig(DataOverrides):
    """A trained run and the data to use it on; None stands for what the run was trained with."""

    run_dir: str | None = field(None, "Run directory of kseg.train.", "run")
    split: str | None = field(None, "Split to use; default: the run's validation split.", "run")
    batch_size: int | None = field(None, "Images a step; default: the run's.", "run")
    workers: int | None = field(None, "Processes that load images; 0: threads; default: one a core.", "run")
    distribution: str = field("none", "data_parallel: every batch is divided among all devices (JAX only).", "run", DISTRIBUTIONS)
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        if self.run_dir is None:
            raise KsegError("--run_dir is missing: name the run directory of a training run")
        if self.batch_size is not None and self.batch_size < 1:
            raise KsegError(f"--batch_size={self.batch_size}: must be at least 1")
        check_workers(self.workers)
        check_choices(self)


@dataclass(frozen=True)
class EvaluateConfig(TrainedConfig):
    """What to evaluate."""

    output: str | None = field(None, "Also write the scores to this JSON file.", "output")


@dataclass(frozen=True)
class PredictConfig(TrainedConfig):
    """What to predict, and what to write."""

    submission: str | None = field(None, "Write the leaderboard's CSV to this file: 256x256 class ids an image.", "output")
    labels_dir: str | None = field(None, "Write label maps here: palette PNGs at each picture's own size.", "output")
    overlays_dir: str | None = field(None, "Write pictures with the classes' colours over them here: JPEG.", "output")

    def __post_init__(self):
        super().__post_init__()
        if not (self.submission or self.labels_dir or self.overlays_dir):
            raise KsegError("nothing to write: pass --submission=FILE, --labels_dir=DIR or --overlays_dir=DIR")
