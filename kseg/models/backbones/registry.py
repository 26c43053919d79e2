"""The registry of backbones."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kseg.models.layers import NORMALIZATIONS
from kseg.utils.errors import KsegError, suggest
from kseg.utils.registry import Registry

BACKBONES = Registry("backbone")
FORMS = ("smp", "transformers")
"""Libraries whose networks of the same name compute other numbers with the same weights."""


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
    names: Mapping[str, str] | None = None,
    truncated: bool = False,
    other_names: Callable[[Iterable[str], Iterable[str]], dict[str, str]] | None = None,
    adapt_state: Callable[[Mapping[str, Any], Container[str]], dict[str, Any]] | None = None,
    presets: Mapping[str, Callable[..., Any]] | None = None,
    options: tuple[str, ...] = (),
) -> None:
    """Registers `build(output_stride=, input_shape=)` under `name`.

    output_strides: the supported ones, such as (8, 16, 32). weights: pretrained weights by tag, such as "imagenet".
    first_layer: for a backbone in a torch layout, the module path of its first convolution. It tells the families apart.
    unused_keys: module paths in the family's checkpoints that features do not need, such as ("classifier",).
    names: of the same network in "smp", "timm" and "torchvision": there it has the same keys, and computes the same at
    output_stride=32. smp also has each of timm's, as `tu-` and timm's name. Without a name of smp's own, that is meant, and
    a lower output stride dilates as in timm.
    truncated: smp's encoder of it has no layers after the last level that is read, as some of timm's.
    other_names: reads another library's names: a function from a checkpoint's module paths and the backbone's layer names, both
    with "_" for ".", to the layers by module. It returns {} for names that are not that library's.
    adapt_state: reads another form of the network: a function from a checkpoint, arrays by key, and the backbone's layer names
    to a checkpoint that fits.
    presets: for a family that loads weights itself, functions by tag that replace `build`.
    options: further arguments of `build`: "form", if it knows that of transformers beside smp's (FORMS), and "drop_path".
    """
    BACKBONES.add(
        name,
        build,
        output_strides=output_strides,
        weights=weights or {},
        first_layer=first_layer,
        unused_keys=unused_keys,
        names=names or {},
        truncated=truncated,
        other_names=other_names,
        adapt_state=adapt_state,
        presets=presets or {},
        options=options,
    )


def check_backbone(name: str, output_stride: int) -> None:
    """Raises KsegError for an unknown name or an unsupported stride, before anything is built."""
    strides = BACKBONES[name].info["output_strides"]
    if output_stride not in strides:
        reason = "its layers cannot be dilated" if strides == (32,) else "no such dilation is defined"
        supported = ", ".join(map(str, strides))
        raise KsegError(f"backbone {name} cannot have output_stride={output_stride} ({reason}); use output_stride={supported}")


def backbone_options(name: str, form: str, drop_path: float | None) -> dict[str, Any]:
    """Returns the arguments of a backbone's `build` for its form and its rate of drop path.

    form: one of FORMS. drop_path: of the last block; None for the backbone's own.
    Raises KsegError for values out of range, and for those that the backbone does not know.
    """
    known = BACKBONES[name].info["options"]
    if form not in FORMS:
        raise KsegError(f"form={form!r}: must be {' or '.join(map(repr, FORMS))}")
    if form != "smp" and "form" not in known:
        having = ", ".join(other for other in BACKBONES if "form" in BACKBONES[other].info["options"])
        raise KsegError(f"form={form!r}: backbone {name} has no such form; those that have are {having}")
    if drop_path is None:
        return {} if form == "smp" else {"form": form}
    if not 0 <= drop_path < 1:
        raise KsegError(f"drop_path={drop_path}: must be 0 or more, and less than 1")
    if "drop_path" not in known:
        having = ", ".join(other for other in BACKBONES if "drop_path" in BACKBONES[other].info["options"])
        raise KsegError(f"drop_path={drop_path}: backbone {name} has no blocks to drop; those that have are {having}")
    return {"drop_path": drop_path, **({} if form == "smp" else {"form": form})}


def list_backbones() -> list[str]:
    """Returns the backbone names that build_backbone accepts, sorted."""
    return list(BACKBONES)


def has_weights(name: str, tag: str) -> bool:
    """Returns True if weights of a backbone can be downloaded by this tag, such as "imagenet"."""
    info = BACKBONES[name].info
    return tag in info.get("weights", {}) or tag in info.get("presets", {})


def name_in(library: str, backbone: str) -> str | None:
    """Returns the name of a backbone in "smp", "timm" or "torchvision"; None if it is not there."""
    names = BACKBONES[backbone].info["names"]
    if library == "smp" and "timm" in names:
        return names.get("smp", f"tu-{names['timm']}")
    return names.get(library)


def find_backbone(name: str, output_stride: int = 32) -> str:
    """Returns the registered name of a backbone that may have smp's name of one of timm's, such as `tu-convnext_tiny`.

    Other names are returned as they are, known or not. Raises KsegError for a `tu-` name of a network that kseg does not have,
    and where kseg's backbone would compute other numbers.
    """
    if name in BACKBONES or not name.startswith("tu-"):
        return name
    timms = {other: theirs for other in BACKBONES if (theirs := name_in("timm", other))}
    found = [other for other, theirs in timms.items() if name == f"tu-{theirs}"]
    for other in found:
        same = output_stride == 32 or name_in("smp", other) == name
        if same and output_stride in BACKBONES[other].info["output_strides"]:
            return other
    if found and name_in("smp", found[0]) == name:
        return found[0]  # check_backbone says which output strides it has
    own = name.removeprefix("tu-")
    if found:
        raise KsegError(
            f"backbone {name}: with output_stride={output_stride} it computes other numbers than kseg's {found[0]}, which is "
            f"dilated as smp's own; use {found[0]}, or output_stride=32"
        )
    if own in BACKBONES:
        raise KsegError(f"backbone {name}: kseg has only smp's {own}, and timm's network of this name is another; use {own}")
    raise KsegError(f"unknown backbone {name!r}{suggest(name, {f'tu-{theirs}' for theirs in timms.values()})}")
