"""Pretrained weights of backbones: found by tag, on the Hub or in a file, verified, and loaded.

The only module that downloads weights, but for keras-cv's presets, which keras-cv fetches itself.
"""

import hashlib
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
from kseg.models.layers import NORMALIZATIONS, Normalize
from kseg.models.pytorch.load import load_backbone_weights
from kseg.models.saving import load_model
from kseg.utils.errors import KsegError, root_cause

KERAS_FILES = (".keras", ".h5")
TORCH_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class Pretrained:
    """Weights that were found: how they get into a backbone, and the mean and std of RGB in 0..1 that they need.

    fill: puts them into a built backbone. build: builds the backbone in place of its family's own function.
    """

    mean: tuple[float, ...] = NORMALIZATIONS["imagenet"][0]
    std: tuple[float, ...] = NORMALIZATIONS["imagenet"][1]
    fill: Callable[[keras.Model], Any] | None = None
    build: Callable[..., keras.Model] | None = None


def find_weights(backbone: str, weights: str | os.PathLike) -> Pretrained:
    """Finds, and if need be downloads, the weights of a backbone.

    weights: a tag of the backbone's ("imagenet"; "-" and "_" are the same); hf://owner/repo[@revision] for the safetensors of a
    repository of the Hub, with the mean and std that its config.json states, if any; or a file: .safetensors, .pth, .pt, .bin
    or .ckpt of PyTorch (of the backbone, or of a model that has it), .keras of a kseg model or backbone, .weights.h5 of the
    backbone.

    Raises KsegError if there is no such tag or file, or the download fails or differs from the Hub's hash.
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
        has = f"it has {', '.join(known)}" if known else "it has none that can be fetched"
        raise KsegError(f"backbone {backbone} has no weights {text!r}; {has}; or pass none, a file, or hf://owner/repo")
    hub = info["weights"][tag]
    path = download(hub.repo, hub.revision, hub.file)
    return Pretrained(hub.mean, hub.std, fill=partial(load_backbone_weights, checkpoint=path))


def download(
    repo: str,
    revision: str | None,
    file: str,
    *,
    limit: int | None = None,
    instead: str = "pass its path as --backbone_weights=FILE",
) -> Path:
    """Returns the path of a Hub file in huggingface_hub's cache, downloaded with a progress bar unless it is there.

    limit: bytes; a larger file is not fetched. instead: what to do with the file once one has it, for messages.

    Its content is compared with the Hub's own hash each time. What differs is removed, and fetched anew if it was in the cache.
    Without a network the cache answers alone. Raises KsegError, one line that says what to fetch and where to put it.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    found = try_to_load_from_cache(repo, file, revision=revision)
    cached = Path(found) if isinstance(found, str) else None
    damaged = False
    try:
        if cached and not _is_intact(cached, repo, revision):
            _remove(cached)
            cached, damaged = None, True
        if cached and re.fullmatch("[0-9a-f]{40}", revision or ""):
            return cached
        # Asked first, because hf_hub_download retries half a minute without network.
        size = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)).size
        if limit is not None and size is not None and size > limit:
            raise KsegError(f"{repo}: {file} has {size} bytes, and not more than {limit} are expected; it is not fetched")
        path = Path(hf_hub_download(repo, file, revision=revision, force_download=damaged))
        if _is_intact(path, repo, revision):
            return path
        _remove(path)
        reason = "what was downloaded differs from the Hub's hash and was removed"
    except KsegError:
        raise
    except GatedRepoError:
        reason = "access to it is restricted; ask for it on its page and log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = "there is no such repository, or it is private; check the name, or log in with `hf auth login`"
    except RevisionNotFoundError:
        reason = "the repository has no such revision"
    except EntryNotFoundError:
        reason = "the repository has no such file"
    except Exception as error:  # network, disk and protocol errors of huggingface_hub and what it is built on
        if cached:
            return cached
        reason = f"the download failed ({root_cause(error)})"
    raise KsegError(
        f"cannot fetch the weights {repo}, revision {revision or 'main'}, file {file}: {reason}; fetch that file on a machine "
        f"that can and {instead}, or copy the folder models--{repo.replace('/', '--')} of its "
        f"cache into {constants.HF_HUB_CACHE}"
    )


def _is_intact(path: Path, repo: str, revision: str | None) -> bool:
    """Whether a file of the cache has the Hub's hash: SHA-256 of large files, git's SHA-1 of a blob of small ones.

    The cache names a file's content by that hash, and the file is a link to it; on systems without links the Hub is asked.
    """
    if path.is_symlink():
        expected = path.readlink().name
    else:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        expected = get_hf_file_metadata(hf_hub_url(repo, path.name, revision=revision)).etag or ""
    content = path.read_bytes()
    if len(expected) == 64:
        return hashlib.sha256(content).hexdigest() == expected
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == expected


def _remove(path: Path) -> None:
    """Removes a file of the cache, so that nobody takes it for good."""
    if path.is_symlink():
        (path.parent / path.readlink()).unlink(missing_ok=True)
    path.unlink()


def _from_repository(backbone: str, address: str) -> Pretrained:
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", address)
    if match is None:
        raise KsegError(f"{address}: expected hf://owner/repo or hf://owner/repo@revision")
    _check_torch_layout(backbone, address)
    repo, revision = match[1], match[2]
    files = _listing(repo, revision)
    path = download(repo, revision, _safetensors(repo, files))
    mean, std = _statistics(repo, revision, files)
    return Pretrained(mean, std, fill=partial(load_backbone_weights, checkpoint=path))


def _listing(repo: str, revision: str | None) -> list[str] | None:
    """Returns the names of a repository's files, or None where the Hub does not say: `download` will know why."""
    from huggingface_hub import HfApi

    try:
        return list(HfApi().list_repo_files(repo, revision=revision))
    except Exception:  # network and protocol errors of huggingface_hub and what it is built on
        return None


def _safetensors(repo: str, files: list[str] | None) -> str:
    """Returns the name of a repository's one safetensors file."""
    if files is None or HubWeights.file in files:
        return HubWeights.file
    found = sorted(name for name in files if name.endswith(".safetensors"))
    if len(found) != 1:
        listed = ", ".join((found or sorted(files))[:8]) or "nothing"
        what = "has several safetensors files" if found else "has no safetensors file"
        raise KsegError(f"hf://{repo} {what}, only {listed}; download the one you mean and pass its path")
    return found[0]


def _statistics(repo: str, revision: str | None, files: list[str] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of RGB in 0..1 from a repository's config.json, as smp's and timm's state them; else ImageNet's."""
    if files is not None and "config.json" not in files:
        return NORMALIZATIONS["imagenet"]
    try:
        config = json.loads(download(repo, revision, "config.json").read_text())
        config = config.get("pretrained_cfg", config)
        mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
    except KsegError:
        if files is not None:  # it is there, and may say something else than ImageNet's
            raise
        return NORMALIZATIONS["imagenet"]
    except (ValueError, TypeError, AttributeError, KeyError):  # a config.json about other things
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
    if "first_layer" not in BACKBONES[backbone].info:
        raise KsegError(f"{weights}: backbone {backbone} takes no weights of PyTorch; use a .keras or .weights.h5 file of kseg's")


def _load_h5(model: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():  # Keras tells of lists of layers that it had loaded already, when a layer fails
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
            model.load_weights(path)
    except Exception as error:  # h5py's and Keras's, by what is wrong with the file
        raise KsegError(
            f"{path}: not the weights of this backbone ({root_cause(error)}); "
            "save them with backbone.save_weights('NAME.weights.h5')"
        ) from None


def _from_model(backbone: str, path: Path) -> Pretrained:
    """The backbone of a model that kseg saved, or a backbone that was saved alone, with the normalisation it was trained with."""
    model = load_model(path)
    layers = {layer.name: layer for layer in model.layers}
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean, std = NORMALIZATIONS["imagenet"]
    if isinstance(layers.get("normalize"), Normalize):
        mean, std = layers["normalize"].mean, layers["normalize"].std
    source = layers.get("backbone", model)
    if any(layer.name == "unit_range" for layer in source.layers):  # keras-cv's preset, which sees images in 0..1
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    return Pretrained(mean, std, fill=partial(_copy, source=source, path=path))


def _copy(model: keras.Model, source: keras.Model, path: Path) -> None:
    theirs = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    ours = {layer.name: layer for layer in model.layers if layer.weights}
    differing = sorted(set(theirs) ^ set(ours)) or [
        name for name, layer in ours.items() if [w.shape for w in theirs[name]] != [tuple(w.shape) for w in layer.weights]
    ]
    if differing:
        raise KsegError(f"{path}: its backbone is another one; layer {differing[0]} differs, of {len(differing)}")
    for name, layer in ours.items():
        layer.set_weights(theirs[name])
