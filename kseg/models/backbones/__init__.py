"""Backbones: from normalised images to features by level.

The contract: `build_backbone(name, ...)` returns a Keras functional model whose input is [B, H, W, 3] float images
normalised with the ImageNet mean and std (or those of its weights), and whose output is a dict of features. Level `cN` has
stride 2**N, or `output_stride` where that is smaller: `c2` [B, ceil(H/4), ceil(W/4), C], ..., `c5`. Some families round the
size down instead, and not every family has `c1`.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kseg.errors import KsegError
from kseg.models.backbone_model import Backbone
from kseg.models.layers import NORMALIZATIONS
from kseg.registry import Registry, import_modules

if TYPE_CHECKING:
    from kseg.models.pretrained import Pretrained

BACKBONES = Registry("backbone")
LEVELS = ("c0", "c1", "c2", "c3", "c4", "c5")


@dataclass(frozen=True)
class HubWeights:
    """Pretrained weights on the Hub: a file of a repository, and the mean and std of RGB in 0..1 that they need.

    revision: a commit, so that the file can never change; None is the newest.
    """

    repo: str
    revision: str | None = None
    file: str = "model.safetensors"
    mean: tuple[float, ...] = NORMALIZATIONS["imagenet"][0]
    std: tuple[float, ...] = NORMALIZATIONS["imagenet"][1]


def register_backbone(
    name: str,
    build: Any,
    *,
    output_strides: tuple[int, ...],
    weights: dict[str, HubWeights] | None = None,
    **info: Any,
) -> None:
    """Registers `build(output_stride=, input_shape=)` under `name`.

    output_strides: what the family can be built with, e.g. (8, 16, 32). weights: pretrained ones by tag, such as "imagenet".
    info: `unused_keys`, the torch module paths that checkpoints of the family hold and its features do not use, such as
    ("classifier",), together with `first_layer`, the path of the first convolution, which tells the family's models from others.
    Or `presets`: for tags whose weights the family loads in its own way, what to call in place of build.
    """
    BACKBONES.add(name, build, output_strides=output_strides, weights=weights or {}, **info)


def build_backbone(
    name: str,
    *,
    output_stride: int = 32,
    weights: "str | os.PathLike | Pretrained | None" = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> Any:
    """Builds a backbone.

    name: `keras_cv/<name>` for keras-cv's.
    output_stride: 8, 16 or 32, the stride of `c5`; below 32 the last stages trade their stride for dilation.
    weights: None for random weights; a tag that the family knows, such as "imagenet"; hf://owner/repo[@revision]; or a file (see
    kseg.models.pretrained). With another number of channels than three, the first convolution is adapted (adapt_kernel).
    Returns a Backbone (a keras.Model) named "backbone", from [B, H, W, C] normalised images to {"c1": ..., "c5": ...}.
    Raises KsegError for an unknown name, a stride that the family cannot be built with, or weights that cannot be had.
    """
    check_backbone(name, output_stride)
    if weights is None:
        return _backbone(BACKBONES[name].build(output_stride=output_stride, input_shape=input_shape))
    from kseg.models.pretrained import Pretrained, find_weights

    found = weights if isinstance(weights, Pretrained) else find_weights(name, weights)
    build = found.build or BACKBONES[name].build
    model = build(output_stride=output_stride, input_shape=input_shape)
    if found.fill is not None:
        found.fill(model)
    return _backbone(model)


def _backbone(model: Any) -> Backbone:
    return Backbone(model.inputs[0], model.output, name="backbone")


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
