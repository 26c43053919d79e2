"""What evaluate, predict and export are told: a trained run, the data to use it on, what to write."""

from dataclasses import dataclass

from kseg.config.data import DataOverrides
from kseg.config.fields import DISTRIBUTIONS, check_choices, check_workers, compilation_cache_field, field, parse_size
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


EXPORT_FORMATS = ("stablehlo", "saved_model", "onnx")
EXPORT_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclass(frozen=True)
class ExportConfig:
    """A trained run to export, and how."""

    run_dir: str | None = field(None, "Run directory of kseg.train.", "run")
    format: str | None = field(None, "What to write.", "output", EXPORT_FORMATS)
    output: str | None = field(None, "Folder to write: the model, and kseg.json, which says what it is.", "output")
    overwrite: bool = field(False, "Replace an earlier export that --output names, if there is one.", "output")
    image_size: tuple[int, int] | None = field(None, "Size of the images, HxW; default: the run's.", "model")
    argmax: bool = field(False, "Give label maps (uint8 [B, H, W]) instead of logits (float32 [B, H, W, classes]).", "model")
    dtype: str = field("float32", "What layers compute in; bfloat16 with stablehlo only.", "model", ("float32", "bfloat16"))
    quantize: str = field("none", "int8 is refused: Keras quantises no convolutions.", "model", ("none", "int8"))
    platforms: tuple[str, ...] = field(
        ("cpu", "cuda"), f"Platforms that the program is for, with --format=stablehlo: of {', '.join(EXPORT_PLATFORMS)}.", "model"
    )

    def __post_init__(self):
        if self.run_dir is None:
            raise KsegError("--run_dir is missing: name the run directory of a training run")
        if self.format is None:
            raise KsegError(f"--format is missing: choose {', '.join(EXPORT_FORMATS)}")
        if self.output is None:
            raise KsegError("--output is missing: name the folder to write")
        check_choices(self)
        if self.quantize != "none":
            raise KsegError(
                f"--quantize={self.quantize}: Keras quantises dense layers alone, and these models convolve; leave it out"
            )
        if self.image_size is not None:
            object.__setattr__(self, "image_size", parse_size(self.image_size))
        if self.dtype != "float32" and self.format != "stablehlo":
            raise KsegError(f"--dtype={self.dtype} does not go with --format={self.format}; choose stablehlo, or float32")
        unknown = [name for name in self.platforms if name not in EXPORT_PLATFORMS]
        if unknown or not self.platforms or len(set(self.platforms)) < len(self.platforms):
            names = ", ".join(EXPORT_PLATFORMS)
            raise KsegError(f"--platforms={','.join(self.platforms)}: name one or more of {names}, each once")
