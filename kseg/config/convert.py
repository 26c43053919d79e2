"""Options of kseg.convert."""

import dataclasses
from dataclasses import dataclass

from kseg.config.fields import check_architecture, check_choices, compilation_cache_field, field
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ConvertConfig:
    """A checkpoint to convert between PyTorch and Keras."""

    checkpoint: str | None = field(
        None, "File to read: .safetensors, .pth, .bin or .ckpt; with another --to a .keras file.", "files", value="FILE"
    )
    output: str | None = field(
        None,
        "File to write: .keras; with --to=torch .safetensors or .pth; with --to=smp or transformers a folder.",
        "files",
        value="FILE",
    )
    overwrite: bool = field(False, "Replace the file of --output if it exists.", "files")
    to: str = field(
        "keras",
        "Direction: read a PyTorch checkpoint, write one, or write a folder for from_pretrained of smp or transformers.",
        "files",
        ("keras", "torch", "smp", "transformers"),
    )
    model: str | None = field(None, "Architecture of the checkpoint, e.g. deeplabv3plus.", "model")
    backbone: str | None = field(None, "Backbone of that model; default: the model's own.", "model")
    num_classes: int | None = field(None, "Number of classes.", "model")
    output_stride: int | None = field(None, "Stride of the deepest features: 8, 16 or 32; default: the model's own.", "model")
    model_options: str | None = field(
        None, "Options of the model, e.g. depth=4,attention=scse for unet.", "model", value="NAME=VALUE,..."
    )
    classification: str = field(
        "none",
        "Classification head of smp (its aux_params): none leaves it out; avg or max reads it, with this pooling.",
        "model",
        ("none", "avg", "max"),
    )
    in_channels: int = field(3, "Channels of the images.", "model")
    source: str = field(
        "auto",
        "Library that the checkpoint must be from; auto: any.",
        "model",
        ("auto", "smp", "torchvision", "timm", "efficientnet_pytorch"),
    )
    reset_head: bool = field(False, "Leave out the checkpoint's last layer; the new one keeps its random weights.", "model")
    compilation_cache: str = compilation_cache_field()

    def __post_init__(self):
        check_choices(self)
        for name in ("checkpoint", "output"):
            if getattr(self, name) is None:
                raise KsegError(f"--{name} is missing: name the file to {'read' if name == 'checkpoint' else 'write'}")
        if self.to == "keras" and str(self.checkpoint).endswith(".keras"):
            raise KsegError(
                f"--checkpoint={self.checkpoint}: is a Keras model already, no PyTorch checkpoint; --to=torch converts it to "
                "one, and kseg.train --init starts from it as it is"
            )
        if self.to == "keras":
            for name in ("model", "num_classes"):
                if getattr(self, name) is None:
                    raise KsegError(f"--{name} is missing: a PyTorch checkpoint does not record it")
            check_architecture(self.model)
            return
        default = {item.name: item.default for item in dataclasses.fields(self)}
        names = ("model", "backbone", "num_classes", "output_stride", "model_options", "classification", "in_channels", "source")
        for name in (*names, "reset_head"):
            if getattr(self, name) != default[name]:
                raise KsegError(f"--{name} does not go with --to={self.to}: the .keras file records it; leave it out")
