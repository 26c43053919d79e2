"""Backbones: from normalised images to features by level.

The contract: `build_backbone(name, ...)` returns a Keras functional model whose input is [B, H, W, 3] float images
normalised with the ImageNet mean and std, and whose output is a dict of features. Level `cN` has stride 2**N, or
`output_stride` where that is
smaller: `c2` [B, ceil(H/4), ceil(W/4), C], ..., `c5`. Some families round the size down instead, and not every family has `c1`.
"""

from typing import Any

from kseg.errors import KsegError
from kseg.registry import Registry, import_modules

BACKBONES = Registry("backbone")
LEVELS = ("c0", "c1", "c2", "c3", "c4", "c5")


def register_backbone(name: str, build: Any, *, output_strides: tuple[int, ...], **info: Any) -> None:
    """Registers `build(output_stride=, weights=, input_shape=)` under `name`.

    output_strides: what the family can be built with, e.g. (8, 16, 32). info: for kseg.models.torch_weights, `unused_keys`, the
    torch module paths that checkpoints of the family hold and its features do not use, such as ("classifier",), together with
    `first_layer`, a path that tells the family's models from others, such as "conv_stem".
    """
    BACKBONES.add(name, build, output_strides=output_strides, **info)


def build_backbone(
    name: str,
    *,
    output_stride: int = 32,
    weights: str | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> Any:
    """Builds a backbone.

    name: `keras_cv/<name>` for keras-cv's.
    output_stride: 8, 16 or 32, the stride of `c5`; below 32 the last stages trade their stride for dilation.
    weights: None for random weights, or a tag that the family knows, such as "imagenet".
    Returns a keras.Model from [B, H, W, C] normalised images to {"c1": ..., "c5": ...}.
    Raises KsegError for an unknown name, or a stride that the family cannot be built with.
    """
    check_backbone(name, output_stride)
    return BACKBONES[name].build(output_stride=output_stride, weights=weights, input_shape=input_shape)


def check_backbone(name: str, output_stride: int) -> None:
    """Raises KsegError, as build_backbone does but at once, for an unknown name or a stride the family cannot be built with."""
    strides = BACKBONES[name].info["output_strides"]
    if output_stride not in strides:
        reason = "its layers cannot be dilated" if strides == (32,) else "no such dilation is defined"
        supported = ", ".join(map(str, strides))
        raise KsegError(f"backbone {name} cannot have output_stride={output_stride} ({reason}); use output_stride={supported}")


def list_backbones() -> list[str]:
    """Returns the names that build_backbone takes, sorted."""
    return list(BACKBONES)


import_modules(__name__)
