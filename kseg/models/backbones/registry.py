"""The registry of backbones."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kseg.models.layers import NORMALIZATIONS
from kseg.utils.errors import KsegError
from kseg.utils.registry import Registry

BACKBONES = Registry("backbone")


@dataclass(frozen=True)
class PackageFile:
    """A PyTorch file that a Python package brings: the package's import name, the path in it, and the content's SHA-256."""

    package: str
    file: str
    sha256: str


@dataclass(frozen=True)
class HubWeights:
    """Pretrained weights on the Hugging Face Hub: a file of a repository, and the mean and std of RGB in 0..1 that they need.

    revision: a commit, so that the file never changes; None for the newest. package: a package that holds the same weights;
    where it is installed, nothing is downloaded. licence: for weights that may not be used for everything, its name and terms.
    """

    repo: str
    revision: str | None = None
    file: str = "model.safetensors"
    mean: tuple[float, ...] = NORMALIZATIONS["imagenet"][0]
    std: tuple[float, ...] = NORMALIZATIONS["imagenet"][1]
    package: PackageFile | None = None
    licence: str | None = None


def smp_weights(name: str, revisions: Mapping[str, str], licence: str | None = None) -> dict[str, HubWeights]:
    """Returns the weights of the repositories smp-hub/<name>.<tag>, by tag. revisions: their commits by tag."""
    return {tag: HubWeights(f"smp-hub/{name}.{tag}", revision, licence=licence) for tag, revision in revisions.items()}


def register_backbone(
    name: str,
    build: Callable[..., Any],
    *,
    output_strides: tuple[int, ...],
    weights: Mapping[str, HubWeights] | None = None,
    first_layer: str | None = None,
    unused_keys: tuple[str, ...] = (),
    other_names: Callable[[Iterable[str], Iterable[str]], dict[str, str]] | None = None,
    presets: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Registers `build(output_stride=, input_shape=)` under `name`.

    output_strides: the supported ones, such as (8, 16, 32). weights: pretrained weights by tag, such as "imagenet".
    first_layer: for a backbone in a torch layout, the module path of its first convolution. It tells the families apart.
    unused_keys: module paths in the family's checkpoints that features do not need, such as ("classifier",).
    other_names: reads another library's names: a function from a checkpoint's module paths and the backbone's layer names, both
    with "_" for ".", to the layers by module. It returns {} for names that are not that library's.
    presets: for a family that loads weights itself, functions by tag that replace `build`.
    """
    BACKBONES.add(
        name,
        build,
        output_strides=output_strides,
        weights=weights or {},
        first_layer=first_layer,
        unused_keys=unused_keys,
        other_names=other_names,
        presets=presets or {},
    )


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


def has_weights(name: str, tag: str) -> bool:
    """Returns True if weights of a backbone can be downloaded by this tag, such as "imagenet"."""
    info = BACKBONES[name].info
    return tag in info.get("weights", {}) or tag in info.get("presets", {})
