"""Options of kseg.export."""

from dataclasses import dataclass

from kseg.config.fields import check_choices, check_not_empty, field, parse_size
from kseg.config.inference import MODEL_SOURCE
from kseg.utils.errors import KsegError

EXPORT_FORMATS = ("stablehlo", "saved_model", "onnx", "openvino", "litert")
EXPORT_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
EXPORT_RESULTS = ("logits", "labels", "probabilities")
ANY_SIZE = "any"
"""--image_size of a model whose images may have any height and width."""


@dataclass(frozen=True)
class ExportConfig:
    """A trained model to export, and in which form."""

    model: str | None = field(None, f"Trained model: {MODEL_SOURCE}.", "model", value="SOURCE")
    image_size: tuple[int, int] | str | None = field(
        None,
        "Size of the images: 256, or 192x256 (height x width); any: every height and width; default: the size of training (of "
        "--val_window, if it had one).",
        "model",
    )
    format: str | None = field(None, "Format to write.", "output", EXPORT_FORMATS)
    output: str | None = field(None, "Folder to write. kseg.json in it describes the model.", "output", value="DIR")
    overwrite: bool = field(False, "Replace an earlier export in --output.", "output")
    result: str = field(
        "logits",
        "Output of the model: logits or probabilities, float32 [B, H, W, num_classes], or label maps, uint8 [B, H, W].",
        "output",
        EXPORT_RESULTS,
    )
    dtype: str = field(
        "float32", "Type that layers compute in; bfloat16: with --format=stablehlo only.", "output", ("float32", "bfloat16")
    )
    quantize: str = field(
        "none",
        "int8: quantise dense layers, as transformers have them; with --format=stablehlo only. Keras quantises no convolutions.",
        "output",
        ("none", "int8"),
    )
    platforms: tuple[str, ...] = field(
        ("cpu", "cuda"), f"stablehlo: platforms that can run the program, of {', '.join(EXPORT_PLATFORMS)}.", "output"
    )

    def __post_init__(self):
        check_not_empty(self, "model", "output")
        if self.model is None:
            raise KsegError(f"--model is missing: name {MODEL_SOURCE}")
        if self.format is None:
            raise KsegError(f"--format is missing: choose {', '.join(EXPORT_FORMATS)}")
        if self.output is None:
            raise KsegError("--output is missing: name the folder to write")
        check_choices(self)
        if self.quantize != "none" and (self.format, self.dtype) != ("stablehlo", "float32"):
            raise KsegError(f"--quantize={self.quantize} needs --format=stablehlo and --dtype=float32")
        if self.image_size == ANY_SIZE and self.format == "litert":
            raise KsegError("--image_size=any does not go with --format=litert: LiteRT's fast kernels need a size; name one")
        if self.image_size not in (None, ANY_SIZE):
            object.__setattr__(self, "image_size", parse_size(self.image_size))
        if self.dtype != "float32" and self.format != "stablehlo":
            raise KsegError(f"--dtype={self.dtype} does not go with --format={self.format}; choose stablehlo, or float32")
        unknown = [name for name in self.platforms if name not in EXPORT_PLATFORMS]
        if unknown or not self.platforms or len(set(self.platforms)) < len(self.platforms):
            names = ", ".join(EXPORT_PLATFORMS)
            raise KsegError(f"--platforms={','.join(self.platforms)}: name one or more of {names}, each once")
