"""The description of a model in config.json of a model folder. It is read as untrusted data."""

import dataclasses
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras

import kseg
from kseg.config.fields import parse_size
from kseg.models.backbones.registry import find_backbone
from kseg.models.build import build_model, precision
from kseg.models.credits import NO_CREDITS, Credits
from kseg.models.folder_files import member
from kseg.models.foreign import CONFIG, MAX_CONFIG, foreign_config
from kseg.models.options import check_options
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError, root_cause

KERAS_MEMBER = "kseg.json"
"""The description in a .keras file, which is a zip archive."""
FORMAT, VERSION = "kseg", 1
"""Format name and version in config.json. VERSION goes up when an older kseg cannot read what a newer one writes."""
_MAX_SIDE = 16384
_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_MEMBERS = {
    "format", "format_version", "kseg_version", "model", "backbone", "output_stride", "input_shape", "normalization", "precision",
    "image_size", "class_names",
}  # fmt: skip
_OPTIONAL_MEMBERS = {"options", "base_model", "licence", "window"}

Numbers = tuple[float, ...]
Description = TypeVar("Description")


@dataclass(frozen=True)
class ModelInfo:
    """Describes a model: build_model's arguments, class names and image size.

    class_names: 1 to 255 names, by class. image_size: (height, width) in training. backbone, output_stride: None for the model's
    own. normalization: (mean, std) of channels in 0..1, or None if the model does not normalise. precision: Keras dtype policy.
    options: the decoder's, if they are not its defaults. window: (height, width) of the windows of images at their own size that
    it was validated on, or None if images were resized to image_size. credits: what its weights started from. Raises KsegError
    for values that no model can have.
    """

    model: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    backbone: str | None = None
    output_stride: int | None = None
    normalization: tuple[Numbers, Numbers] | None = None
    input_shape: tuple[int | None, int | None, int] = (None, None, 3)
    precision: str = "float32"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    window: tuple[int, int] | None = None
    credits: Credits = NO_CREDITS

    def __post_init__(self):
        entry = MODELS[self.model]  # raises for an unknown one
        stride = self.output_stride or entry.info["output_stride"]
        object.__setattr__(self, "output_stride", stride)
        object.__setattr__(self, "backbone", find_backbone(self.backbone or entry.info["backbone"], stride))
        for name in ("image_size", "window"):
            if (size := getattr(self, name)) is not None:
                object.__setattr__(self, name, size := parse_size(size, name))
                if max(size) > _MAX_SIDE:
                    raise KsegError(f"{name} {size}: more than {_MAX_SIDE} pixels a side")
        if not 1 <= len(self.class_names) <= 255:
            raise KsegError(f"{len(self.class_names)} class names: expected 1 to 255")
        for name in self.class_names:
            if not (name and name.isprintable() and len(name) <= 200):
                raise KsegError(f"class name {name[:40]!r}: expected 1 to 200 characters that can be printed")
        if self.precision not in _PRECISIONS:
            raise KsegError(f"precision {self.precision!r}: expected one of {', '.join(_PRECISIONS)}")
        object.__setattr__(self, "options", check_options(self.model, self.options))
        if self.normalization is not None:
            mean, std = self.normalization
            if not len(mean) == len(std) == self.input_shape[-1] or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
                raise KsegError("normalization: expected a mean and a positive std for each channel")

    def build(self) -> keras.Model:
        """Builds the model with random weights. Raises KsegError if there is no such model."""
        with precision(self.precision):
            return build_model(
                self.model,
                num_classes=len(self.class_names),
                backbone=self.backbone,
                output_stride=self.output_stride,
                normalization=self.normalization,
                input_shape=self.input_shape,
                **self.options,
            )

    def to_json(self) -> str:
        """Returns the content of config.json."""
        normalization = self.normalization and dict(zip(("mean", "std"), self.normalization, strict=True))
        content = {
            "format": FORMAT,
            "format_version": VERSION,
            "kseg_version": kseg.__version__,
            "model": self.model,
            "backbone": self.backbone,
            "output_stride": self.output_stride,
            "input_shape": self.input_shape,
            "normalization": normalization,
            "precision": self.precision,
            "image_size": self.image_size,
            "class_names": self.class_names,
            **({"options": self.options} if self.options else {}),
            **({"window": self.window} if self.window else {}),
            **self.credits.members(),
        }
        return json.dumps(content, indent=1) + "\n"


def read_info(folder: Path) -> ModelInfo:
    """Reads the config.json of a folder. Raises KsegError like parse_info and member."""
    return parse_info(member(folder, CONFIG), folder / CONFIG)


def parse_info(path: Path, shown: object) -> ModelInfo:
    """Reads a config.json. shown: its name in error messages.

    Raises KsegError unless it is the config.json of a model folder, has this format version, and names known models.
    """
    return described(path, shown, parse_content)


def described(path: Path, shown: object, parse: Callable[[Any], Description]) -> Description:
    """Returns `parse` of a config.json's content. Raises KsegError, which names the file as `shown`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG + 1)
        if len(text) > MAX_CONFIG:
            raise KsegError(f"has more than {MAX_CONFIG} bytes")
        return parse(json.loads(text))
    except KsegError as error:
        raise KsegError(f"{shown}: {error}") from None
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise KsegError(f"{shown}: cannot be read ({root_cause(error)})") from None


def read_file_info(path: Path) -> ModelInfo | None:
    """Returns the description in a .keras file (KERAS_MEMBER), None if it has none. Raises KsegError like parse_info."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(KERAS_MEMBER).file_size > MAX_CONFIG:
                raise KsegError(f"has more than {MAX_CONFIG} bytes")
            return parse_content(json.loads(archive.read(KERAS_MEMBER)))
    except KeyError:
        return None
    except KsegError as error:
        raise KsegError(f"{path}: {KERAS_MEMBER}: {error}") from None
    except (OSError, ValueError, OverflowError, RecursionError, EOFError, zlib.error, zipfile.BadZipFile):
        return None  # load_model says what is wrong with the file


def parse_content(content: Any) -> ModelInfo:
    """Returns the description in the content of a config.json of kseg. Raises KsegError for anything else."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KsegError(
            foreign_config(content)
            or "does not say that this is a model of kseg; kseg.sharing.hub.save_folder writes such folders"
        )
    version = content.get("format_version")
    if version != VERSION:
        written = re.sub(r"[^\w.+-]", "?", str(content.get("kseg_version")))[:20]
        raise KsegError(f"has format version {str(version)[:20]!r}, and this kseg ({kseg.__version__}) reads {VERSION}; "
                        f"it was written by kseg {written}")  # fmt: skip
    if unknown := sorted(set(content) - _MEMBERS - _OPTIONAL_MEMBERS):
        raise KsegError(f"unknown member {unknown[0][:40]!r}")
    if missing := sorted(_MEMBERS - set(content)):
        raise KsegError(f"lacks the member {missing[0]!r}")
    normalization = content["normalization"]
    if normalization is not None:
        if not isinstance(normalization, dict) or set(normalization) != {"mean", "std"}:
            raise KsegError("normalization: expected a mean and a std, or null")
        mean, std = (_list(normalization, key, (int, float)) for key in ("mean", "std"))
        normalization = (tuple(map(float, mean)), tuple(map(float, std)))
    shape = _list(content, "input_shape", (int, type(None)))
    if len(shape) != 3 or shape[2] is None or not 1 <= shape[2] <= 64 or any(s and not 32 <= s <= _MAX_SIDE for s in shape[:2]):
        raise KsegError("input_shape: expected [height or null, width or null, channels]")
    options = content.get("options", {})
    if not isinstance(options, dict):
        raise KsegError("options: expected values by name")
    for name, kind in {"model": str, "backbone": str, "output_stride": int, "precision": str}.items():
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            raise KsegError(f"{name}: expected {'a name' if kind is str else 'a whole number'}")
    return ModelInfo(
        model=content["model"],
        class_names=tuple(_list(content, "class_names", (str,))),
        image_size=tuple(_list(content, "image_size", (int,))),
        backbone=content["backbone"],
        output_stride=content["output_stride"],
        normalization=normalization,
        input_shape=tuple(shape),
        precision=content["precision"],
        options=options,
        window=tuple(_list(content, "window", (int,))) if content.get("window") is not None else None,
        credits=Credits.of(content),
    )


def _list(content: Mapping[str, Any], name: str, kinds: tuple[type, ...]) -> list[Any]:
    value = content[name]
    if not isinstance(value, list) or any(not isinstance(item, kinds) or isinstance(item, bool) for item in value):
        raise KsegError(f"{name}: expected a list of {' or '.join(kind.__name__ for kind in kinds)}")
    return value
