"""The preprocessor_config.json of Hugging Face transformers: mean and std, and the size that images are resized to."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard

from kseg.models.channels import channel_statistics
from kseg.models.folder_files import FolderFiles
from kseg.models.foreign import MAX_CONFIG
from kseg.models.layers import NORMALIZATIONS
from kseg.models.model_info import ModelInfo, described
from kseg.utils.errors import KsegError

PROCESSOR = "preprocessor_config.json"
_BILINEAR = 2  # in PIL
_LARGEST = 16384


@dataclass(frozen=True)
class Processor:
    """normalization: (mean, std) of channels in 0..1. size: (height, width) that images are resized to; None if it varies."""

    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    size: tuple[int, int] | None = None


def read_processor(files: FolderFiles, channels: int) -> Processor:
    """Reads preprocessor_config.json of a folder. Without one, images are normalised with ImageNet's mean and std.

    Says once what kseg leaves to the user. channels: of the images. Raises KsegError for values that cannot be.
    """
    if not files.has(PROCESSOR):
        _note(f"{files.name} has no {PROCESSOR}: images are normalised with ImageNet's mean and std")
        return Processor(_numbers(*NORMALIZATIONS["imagenet"], channels))
    path = files.get(PROCESSOR, MAX_CONFIG)
    return described(path, files.shown(PROCESSOR), lambda content: _parse(content, files.name, channels))


def _parse(content: Any, name: str, channels: int) -> Processor:
    if not isinstance(content, Mapping):
        raise KsegError("is no JSON object")
    if content.get("do_reduce_labels", content.get("reduce_labels")) is True:
        _note(
            f"{name} was trained on labels whose classes count from 1 (do_reduce_labels); kseg leaves labels as they are: "
            "number the classes with --label_map"
        )
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    if not _is_number(factor) or not 0 < factor < math.inf:
        raise KsegError(f"rescale_factor {str(factor)[:20]!r}: expected a positive number")
    mean, std = [0.0], [1.0]
    if content.get("do_normalize", True):
        mean, std = (_values(content, f"image_{key}", NORMALIZATIONS["imagenet"][i]) for i, key in enumerate(("mean", "std")))
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    if len(mean) != len(std) or len(mean) not in (3, channels):
        raise KsegError(f"image_mean and image_std: expected numbers for {channels} channels")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise KsegError("image_mean and image_std: expected a mean and a positive std for each channel")
    unit = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * factor  # kseg divides images by 255 first
    mean, std = ([value / unit for value in values] for values in (mean, std))
    return Processor(_numbers(mean, std, channels), _size(content, name))


def _numbers(mean: Any, std: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(mean) != channels:
        mean, std = channel_statistics(mean, std, channels)
    return tuple(map(float, mean)), tuple(map(float, std))


def _values(content: Mapping[str, Any], key: str, default: tuple[float, ...]) -> list[float]:
    value = content.get(key, list(default))
    values = value if isinstance(value, list) else [value]
    if not values or not all(map(_is_number, values)):
        raise KsegError(f"{key} {str(value)[:40]!r}: expected numbers")
    return list(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _size(content: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    """Returns the (height, width) that images of any shape are resized to; None, with a note, for everything else."""
    size = content.get("size", {"height": 512, "width": 512})
    if isinstance(size, int):
        size = {"height": size, "width": size}
    height, width = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (None, None)
    varies = not content.get("do_resize", True) or content.get("do_center_crop") or content.get("do_pad")
    if varies or not (_is_side(height) and _is_side(width)):
        _note(f"{name} does not resize images to one size ({str(size)[:60]}); name it with --image_size, or pass --window")
        return None
    if content.get("resample", _BILINEAR) != _BILINEAR:
        _note(f"{name} resizes images with PIL's filter {str(content['resample'])[:20]}; kseg resizes them bilinearly")
    return height, width


def _is_side(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and 32 <= value <= _LARGEST


@cache  # once a process
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def processor_config(info: ModelInfo) -> dict[str, Any]:
    """Returns the preprocessor_config.json for a model of kseg."""
    mean, std = info.normalization or ((0.0,) * info.input_shape[-1], (1.0,) * info.input_shape[-1])
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        "size": dict(zip(("height", "width"), info.image_size, strict=True)),
        "resample": _BILINEAR,
        "do_rescale": info.normalization is not None,
        "rescale_factor": 1 / 255,
        "do_normalize": info.normalization is not None,
        "image_mean": mean,
        "image_std": std,
        "do_reduce_labels": False,
    }
