"""Options of kseg.export."""

from dataclasses import dataclass

from kseg.config.fields import check_choices, field, parse_size
from kseg.utils.errors import KsegError

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
