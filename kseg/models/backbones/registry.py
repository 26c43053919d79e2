"""The registry of backbones."""

from dataclasses import dataclass
from typing import Any

from kseg.models.layers import NORMALIZATIONS
from kseg.utils.errors import KsegError
from kseg.utils.registry import Registry

BACKBONES = Registry("backbone")


@dataclass(frozen=True)
class HubWeights:
    """Pretrained weights on the Hugging Face Hub: a file of a repository, and the mean and std of RGB in 0..1 that they need.

    revision: a commit, so that the file never changes; None for the newest.
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

    output_strides: the supported ones, such as (8, 16, 32). weights: pretrained weights by tag, such as "imagenet".
    info for backbones in a torch layout: `first_layer`, the torch module path of the first convolution, by which checkpoints of
    the family are recognised; and `unused_keys`, the module paths in its checkpoints that features do not need, such as
    ("classifier",).
    info for a family that loads weights itself: `presets`, functions by tag that replace `build`.
    """
    BACKBONES.add(name, build, output_strides=output_strides, weights=weights or {}, **info)


def check_backbone(name: str, output_stride: int) -> None:
    """Raises KsegError for an unknown name or an unsupported stride, before anything is built."""
    strides = BACKBONES[name].info["output_strides"]
    if output_stride not in strides:
        reason = "its layers cannot be dilated" if strides == (32,) else "no such dilation is defined"
        supported = ", ".join(map(str, strides))
        raise KsegError(f"backbone {name} cannot have output_stride={output_stride} ({reason}); use output_stride={supported}")


def list_backbones() -> list[str]:
    """Returns the backbone names that build_backbone accepts, sorted."""
    return list(BACKBONES)
