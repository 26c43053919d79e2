"""The registry of backbones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kseg.models.layers import NORMALIZATIONS
from kseg.utils.errors import KsegError
from kseg.utils.registry import Registry

if TYPE_CHECKING:
    pass


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
