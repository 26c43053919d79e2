"""Loads PyTorch checkpoints into a model: uses every key and every variable exactly once, or names what is left over.

A layer's name is its torch module path with "_" for ".". So no table is needed: the tensors of each module go to the layer of
that name and are converted by the layer's type. kseg.models.pytorch.export is the inverse.
"""

import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.models.backbone import Backbone
from kseg.models.backbones.registry import BACKBONES
from kseg.models.channels import adapt_kernel
from kseg.models.pytorch.checks import HEADS, check_classes, check_efficientnet, check_form, refuse
from kseg.models.torch_layout import kernel_axes, tensor_names
from kseg.models.transformers_keys import is_transformers, to_kseg
from kseg.utils.errors import KsegError

WRAPPERS = ("module.", "model.", "net.", "_orig_mod.")
"""Prefixes that DataParallel, Lightning and torch.compile add to every key."""
OUTPUT_NORMS = "encoder_hidden_states_norms_"
"""Layers at the end of a backbone of transformers, which weights from other libraries lack."""
OPTIONAL = ("aux_classifier_", "classification_head_", "auxiliary_head_", OUTPUT_NORMS)
"""Modules of a checkpoint that a model may lack: torchvision's and transformers' auxiliary heads, smp's classification head."""
RENAMED = {"decoder.0.": "decoder.aspp.", "decoder.1.": "decoder.conv.", "decoder.2.": "decoder.bn."}
"""smp's DeepLabV3 decoder was a Sequential up to version 0.4. All other modules have kept their names since 0.1."""
SOURCES = ("smp", "torchvision", "timm", "efficientnet_pytorch", "transformers")
_IGNORED = ("num_batches_tracked", "relative_position_index", "attn_mask")


@dataclass(frozen=True)
class TorchLoad:
    """The result of load_torch_weights.

    tensors: the number of tensors used. left_out: the modules not used. sources: the libraries that use these module names.
    """

    tensors: int
    left_out: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass
class _Module:
    """A torch module: its path, and its tensors by name."""

    path: str
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


def load_torch_weights(
    model: keras.Model,
    checkpoint: str | os.PathLike | Mapping[str, Any],
    source: str | None = None,
    reset_head: bool = False,
) -> TorchLoad:
    """Fills every variable of a model, or of a torch-layout backbone, from a PyTorch checkpoint.

    checkpoint: a state_dict (tensors or arrays by key), or its path: .pth, .pt, .bin (read with weights_only=True) or
    .safetensors. Accepted keys:
    - of smp, for models: "encoder.conv1.weight", and "encoder.model." for its tu- encoders;
    - of torchvision's segmentation models, for the models with the same names: "backbone." is read as "encoder.";
    - of torchvision, timm and efficientnet_pytorch, for backbones: "conv1.weight";
    - of a saved SegFormer or UPerNet of transformers, for models of its form (kseg.models.transformers_keys).
    Left out are `num_batches_tracked`, the `unused_keys` of the backbone's registration (mostly classifiers), and OPTIONAL
    modules that the model lacks.
    source: None for any, or one of SOURCES to require the keys of that library.
    reset_head: keep the model's last layers (HEADS), whatever the checkpoint's number of classes.

    Raises KsegError for a file that cannot be read, keys of another library, another number of classes or another shape, and
    keys or variables that are left over. The model is then unchanged.
    """
    state = read_state_dict(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
    arrays, sources = _read(state)
    if source is not None and source not in sources:
        if source not in SOURCES:
            raise KsegError(f"unknown source {source!r}; known: {', '.join(SOURCES)}, None")
        raise KsegError(
            f"the checkpoint's keys (such as {next(iter(arrays), 'none at all')}) are not {source}'s, but those of "
            f"{' or '.join(sources)}; leave source out to read it"
        )
    return _fill(model, arrays, sources, reset_head=reset_head)


def count_classes(state: Mapping[str, Any]) -> int:
    """Returns the number of classes of a whole model's state_dict. Raises KsegError if it has no segmentation head."""
    modules = _by_module(_read(state)[0])
    heads = [name for name in modules if name.startswith(HEADS) and not name.startswith(OPTIONAL)]
    weights = [modules[name].tensors.get("weight", np.empty(0)) for name in heads]
    if counts := {weight.shape[0] for weight in weights if weight.ndim == 4}:
        return min(counts)
    first = next(iter(modules.values())).path if modules else "none at all"
    raise KsegError(f"has no segmentation head (its modules are like {first}); --backbone_weights takes a backbone's weights")


def classification_classes(state: Mapping[str, Any]) -> int:
    """Returns the number of classes of smp's classification head. Raises KsegError if the state_dict has none."""
    module = _by_module(_read(state)[0]).get("classification_head_3")
    weight = module.tensors.get("weight", np.empty(0)) if module else np.empty(0)
    if weight.ndim != 2:
        raise KsegError("has no classification head; leave --classification out")
    return weight.shape[0]


def load_backbone_weights(model: keras.Model, checkpoint: str | os.PathLike | Mapping[str, Any]) -> TorchLoad:
    """Fills a backbone from a checkpoint of the backbone or of a whole model, as load_torch_weights does.

    The other modules of a whole model are left out. The first convolution is adapted if the backbone's images are not RGB
    (kseg.models.channels.adapt_kernel).
    """
    state = read_state_dict(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
    arrays, sources = _read(state)
    for prefix in ("encoder.", "backbone."):
        if any(key.startswith(prefix) for key in arrays):
            arrays = {key: value for key, value in arrays.items() if key.startswith(prefix)}
    try:
        return _fill(model, arrays, sources, channels=model.input_shape[-1])
    except KsegError as error:
        where = f"{checkpoint}: " if isinstance(checkpoint, (str, os.PathLike)) else ""
        raise KsegError(f"{where}{str(error).removeprefix(where)}") from None


def _fill(
    model: keras.Model,
    arrays: dict[str, np.ndarray],
    sources: tuple[str, ...],
    *,
    reset_head: bool = False,
    channels: int = 3,
) -> TorchLoad:
    layers = layers_with_weights(model)
    families = _families(layers)
    for adapt in {info["adapt_state"] for info in families if info.get("adapt_state")}:
        arrays = adapt(arrays, layers)
    modules = _by_module(arrays)
    everything = [module.path for module in modules.values()]
    if not any(name.startswith("backbone_") for name in layers):
        modules = {re.sub("^backbone_", "encoder_", name): module for name, module in modules.items()}
    whole = any(name.startswith("segmentation_head") for name in layers)
    if whole:
        check_form(layers, sources)
    check_efficientnet(layers, modules)
    modules = {re.sub("^encoder_model_", "encoder_", name): module for name, module in modules.items()}
    modules = {name: module for name, module in modules.items() if name in layers or not name.startswith(OPTIONAL)}
    for rename in {info["other_names"] for info in families if info.get("other_names")}:
        plain = {name.removeprefix("encoder_"): name for name in modules}
        renamed = {plain[name]: layer for name, layer in rename(plain, layers).items()}
        modules = {renamed.get(name, name): module for name, module in modules.items()}
    if not any(name in layers for name in modules) and any(f"encoder_{name}" in layers for name in modules):
        modules = {f"encoder_{name}": module for name, module in modules.items()}
    unused = {_encoder_name(key) for info in families for key in info["unused_keys"]}
    unused |= {name for layer in model.layers if isinstance(layer, Backbone) for name in layer.unread}
    unused |= {f"{block}_{part}" for block in blocks_with_unused_attention(layers) for part in UNUSED_ATTENTION}
    modules = {name: module for name, module in modules.items() if name not in unused}
    if reset_head:
        modules = {name: module for name, module in modules.items() if not name.startswith(HEADS)}
        layers = {name: layer for name, layer in layers.items() if not name.startswith(HEADS)}
    if not whole and not any(name.startswith(OUTPUT_NORMS) for name in modules):
        layers = {name: layer for name, layer in layers.items() if not name.startswith(OUTPUT_NORMS)}
    check_classes(layers, modules)
    refuse("the checkpoint has no weights for", sorted(set(layers) - set(modules)), "wrong model or backbone?")
    unplaced = sorted(modules[name].path for name in set(modules) - set(layers))
    refuse("the model has no place for", unplaced, "wrong model or backbone?")
    converted = {name: _convert(layers[name], modules[name].tensors, channels) for name in layers}
    for name, weights in converted.items():
        # JAX would share their memory, and training the PyTorch model would change this one.
        layers[name].set_weights([np.array(weight) for weight in weights])
    used = {modules[name].path for name in layers}
    return TorchLoad(
        tensors=sum(len(weights) for weights in converted.values()),
        left_out=tuple(path for path in everything if path not in used),
        sources=sources,
    )


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
    except Exception as error:  # pickle, zipfile and torch raise various types
        reason = " ".join(str(error).split())[:160]
        raise KsegError(f"{path}: not a checkpoint that can be read safely ({reason})") from None
    if not isinstance(content, Mapping):
        raise KsegError(f"{path}: holds a {type(content).__name__}, not a state_dict; save model.state_dict()")
    return content


def _read(state: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns arrays by kseg's keys, and the libraries that use the checkpoint's."""
    arrays = _unwrapped(state)
    return (to_kseg(arrays), ("transformers",)) if is_transformers(arrays) else (arrays, _sources(arrays))


def _unwrapped(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns arrays by key, taken out of Lightning's "state_dict" and without prefixes that every key has."""
    if isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    arrays = {}
    for key, value in state.items():
        if not key.endswith(_IGNORED):
            arrays[key] = _array(value)
    while prefix := next((p for p in WRAPPERS if arrays and all(key.startswith(p) for key in arrays)), None):
        arrays = {key.removeprefix(prefix): value for key, value in arrays.items()}
    return arrays


def _array(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()  # numpy has no bfloat16


def _sources(keys: Iterable[str]) -> tuple[str, ...]:
    """Returns the libraries that use these module names."""
    first = {key.partition(".")[0] for key in keys}
    if first & {"encoder", "decoder", "segmentation_head", "patch_embed1"}:
        return ("smp",)
    if "backbone" in first or {"features", "classifier"} <= first:
        return ("torchvision",)
    if "_conv_stem" in first:
        return ("efficientnet_pytorch",)
    if first & {"conv_stem", "pre_logits", "head", "last_linear", "layer0"}:
        return ("timm",)
    return ("torchvision", "timm")  # a ResNet has the same keys in both


def _by_module(arrays: dict[str, np.ndarray]) -> dict[str, _Module]:
    """Groups tensors by layer name: {"encoder.conv1.weight": ...} becomes {"encoder_conv1": module with "weight"}."""
    modules: dict[str, _Module] = {}
    for key, value in arrays.items():
        path, _, name = key.rpartition(".")
        current = next((new + path[len(old) :] for old, new in RENAMED.items() if f"{path}.".startswith(old)), path)
        modules.setdefault(current.rstrip(".").replace(".", "_"), _Module(path)).tensors[name] = value
    return modules


def _families(layers: Container[str]) -> list[dict[str, Any]]:
    """Returns the registrations of the backbone family that the layers belong to."""
    known = [info for name in BACKBONES if (info := BACKBONES[name].info).get("first_layer") is not None]
    return [info for info in known if _encoder_name(info["first_layer"]) in layers]


def _encoder_name(path: str) -> str:
    return f"encoder_{path.replace('.', '_')}"


UNUSED_ATTENTION = tuple(f"attention1_attention_{part}" for part in ("cSE_1", "cSE_3", "sSE_0"))
"""Modules of smp's block without a skip, whose first attention does nothing."""


def blocks_with_unused_attention(layers: Iterable[str]) -> list[str]:
    """Returns the decoder's blocks, by name, that have a second attention but no first one."""
    second, first = (f"_attention{number}_attention_sSE_0" for number in (2, 1))
    names = set(layers)
    blocks = [name.removesuffix(second) for name in layers if name.endswith(second)]
    return [block for block in blocks if block + first not in names]


def layers_with_weights(model: keras.Model) -> dict[str, keras.Layer]:
    """Returns the layers with weights by name, in the order of the graph, those of nested models included."""
    found: dict[str, keras.Layer] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= layers_with_weights(layer)
        elif layer.weights:
            found[layer.name] = layer
    return found


def _convert(layer: keras.Layer, tensors: dict[str, np.ndarray], channels: int) -> list[np.ndarray]:
    """Converts a torch module's tensors to the layer's weights, in Keras's order and layout.

    channels: of the images; if not 3, a kernel for RGB is adapted where the layer reads the images.
    """
    tensors = dict(tensors)
    names = tensor_names(layer)
    if hasattr(layer, "kernel") and tensors.get("weight", np.empty(0)).ndim == len(kernel_axes(layer)):
        tensors["weight"] = tensors["weight"].transpose(kernel_axes(layer))
        if tensors["weight"].shape[2:3] == (3,) and layer.kernel.shape[2] == channels != 3:
            tensors["weight"] = adapt_kernel(tensors["weight"], channels)
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
