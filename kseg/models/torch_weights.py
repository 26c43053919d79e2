"""Reads PyTorch checkpoints into a model: every key and every variable exactly once, or an error that names what is left over.

A layer's name is its torch module path with "_" for ".", so no table is needed: each module's tensors go to the layer of
that name, converted by the layer's type.
"""

import os
import re
from collections import defaultdict
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.errors import KsegError
from kseg.models.backbones import BACKBONES

WRAPPERS = ("module.", "model.", "net.", "_orig_mod.")
"""Prefixes that DataParallel, Lightning and torch.compile put before every key."""
OPTIONAL = ("aux_classifier_",)
"""Modules that a checkpoint may hold and a model may lack: torchvision's auxiliary head, which only training uses."""
_IGNORED = ("num_batches_tracked",)


def load_torch_weights(model: keras.Model, checkpoint: str | os.PathLike | Mapping[str, Any]) -> None:
    """Fills every variable of a model, or of a torch-layout backbone, from a PyTorch checkpoint.

    checkpoint: a state_dict (tensors or arrays by key), or the path of one as .pth, .pt, .bin (read with weights_only=True) or
    .safetensors. smp's keys fit models ("encoder.conv1.weight"), torchvision's and timm's fit backbones ("conv1.weight"), those
    of torchvision's segmentation models fit the models of the same names ("backbone." is read as "encoder."). Left out are
    `num_batches_tracked`, what the backbone's registration lists as `unused_keys` (classifiers, mostly), and what OPTIONAL names
    where the model has no layers for it.

    Raises KsegError if the file cannot be read, a shape differs, or a key or a variable is left over; the model is then
    unchanged.
    """
    state = read_state_dict(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
    modules = _by_module(_unwrapped(state))
    layers = {layer.name: layer for layer in model._flatten_layers() if layer.weights and not hasattr(layer, "layers")}
    if not any(name.startswith("backbone_") for name in layers):
        modules = {re.sub("^backbone_", "encoder_", name): tensors for name, tensors in modules.items()}
    modules = {name: tensors for name, tensors in modules.items() if name in layers or not name.startswith(OPTIONAL)}
    if not any(name in layers for name in modules) and any(f"encoder_{name}" in layers for name in modules):
        modules = {f"encoder_{name}": tensors for name, tensors in modules.items()}
    unused = _unused_by_backbones(layers)
    modules = {name: tensors for name, tensors in modules.items() if name not in unused}
    _refuse("the checkpoint has no weights for", sorted(set(layers) - set(modules)), "wrong model or backbone?")
    _refuse("the model has no place for", sorted(set(modules) - set(layers)), "wrong model or backbone?")
    converted = {name: _convert(layers[name], modules[name]) for name in layers}
    for name, weights in converted.items():
        layers[name].set_weights(weights)


def read_state_dict(path: str | os.PathLike) -> Mapping[str, Any]:
    """Reads arrays by key from .safetensors, or from .pth, .pt and .bin without running code from the file."""
    path = Path(path)
    if not path.is_file():
        raise KsegError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        import torch

        content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise KsegError(f"{path}: reading it needs the package {error.name}; install it (pip install {error.name})") from None
    except Exception as error:  # pickle's, zipfile's and torch's own errors, by what is wrong with the file
        reason = " ".join(str(error).split())[:160]
        raise KsegError(f"{path}: not a checkpoint that can be read safely ({reason})") from None
    if not isinstance(content, Mapping):
        raise KsegError(f"{path}: holds a {type(content).__name__}, not a state_dict; save model.state_dict()")
    return content


def _unwrapped(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by key: out of Lightning's "state_dict", and without a prefix that every key has."""
    if isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    arrays = {}
    for key, value in state.items():
        if not key.endswith(_IGNORED):
            arrays[key] = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    while prefix := next((p for p in WRAPPERS if arrays and all(key.startswith(p) for key in arrays)), None):
        arrays = {key.removeprefix(prefix): value for key, value in arrays.items()}
    return arrays


def _by_module(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{"encoder_conv1": {"weight": ...}} of {"encoder.conv1.weight": ...}."""
    modules: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, value in arrays.items():
        path, _, name = key.rpartition(".")
        modules[path.replace(".", "_")][name] = value
    return dict(modules)


def _unused_by_backbones(layers: Container[str]) -> set[str]:
    """Modules behind the last feature (classifiers, mostly) that the registration of the layers' backbone family lists."""
    families = [BACKBONES[name].info for name in BACKBONES if "unused_keys" in BACKBONES[name].info]
    keys = [key for info in families if _encoder_name(info["first_layer"]) in layers for key in info["unused_keys"]]
    return {_encoder_name(key) for key in keys}


def _encoder_name(path: str) -> str:
    return f"encoder_{path.replace('.', '_')}"


def _convert(layer: keras.Layer, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The layer's weights, in Keras's order and layout, of a torch module's tensors."""
    tensors = dict(tensors)
    if isinstance(layer, keras.layers.BatchNormalization):
        names = ["weight", "bias", "running_mean", "running_var"]
    elif isinstance(layer, keras.layers.GroupNormalization):
        names = ["weight", "bias"]
    elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Conv2DTranspose)):
        names = ["weight", "bias"] if layer.use_bias else ["weight"]
        axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
        if tensors.get("weight", np.empty(0)).ndim == 4:
            tensors["weight"] = tensors["weight"].transpose(axes)
    else:
        raise KsegError(f"layer {layer.name} is a {type(layer).__name__}, which no torch module is converted to")
    if set(names) != set(tensors):
        raise KsegError(
            f"module {layer.name} has {', '.join(sorted(tensors))} in the checkpoint; the model needs {', '.join(names)}"
        )
    weights = [tensors[name] for name in names]
    for name, weight, variable in zip(names, weights, layer.weights, strict=True):
        if weight.shape != tuple(variable.shape):
            raise KsegError(
                f"module {layer.name}: {name} is {weight.shape} in the checkpoint, {tuple(variable.shape)} in the model "
                "(shapes in Keras's order)"
            )
    return weights


def _refuse(what: str, names: list[str], hint: str) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise KsegError(f"{what} {', '.join(names[:5])}{more}; {hint}")
