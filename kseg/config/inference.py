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
    quantize: str = field(
        "none",
        "int8, with stablehlo, for dense layers, as transformers have them; Keras quantises no convolutions.",
        "model",
        ("none", "int8"),
    )
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
        if self.quantize != "none" and (self.format, self.dtype) != ("stablehlo", "float32"):
            raise KsegError(f"--quantize={self.quantize} needs --format=stablehlo and --dtype=float32")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", parse_size(self.image_size))
        if self.dtype != "float32" and self.format != "stablehlo":
            raise KsegError(f"--dtype={self.dtype} does not go with --format={self.format}; choose stablehlo, or float32")
        unknown = [name for name in self.platforms if name not in EXPORT_PLATFORMS]
        if unknown or not self.platforms or len(set(self.platforms)) < len(self.platforms):
            names = ", ".join(EXPORT_PLATFORMS)
            raise KsegError(f"--platforms={','.join(self.platforms)}: name one or more of {names}, each once")
