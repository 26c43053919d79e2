"""Exports a model's weights as a PyTorch state_dict for smp, torchvision or timm. The inverse of kseg.models.pytorch.load."""

import re

import keras
import numpy as np

from kseg.models.backbone import Backbone
from kseg.models.backbones.registry import BACKBONES, name_in
from kseg.models.pytorch.load import blocks_with_unused_attention, layers_with_weights
from kseg.models.torch_layout import is_kernel, kernel_axes, tensor_names
from kseg.models.transformers_keys import has_transformers_form, to_transformers
from kseg.utils.errors import KsegError

COMPOUND = (
    "segmentation_head", "aux_classifier", "seg_blocks", "skip_conv", "se_module", "conv_stem", "conv_pw", "conv_pwl", "conv_dw",
    "conv_reduce", "conv_expand", "score_fr", "score_pool3", "score_pool4", "upscore_pool4", r"x_\d_\d", "hl_conv", "SE_hl",
    "SE_ll", "top_conv", "center_conv", "bottom_conv", "out_conv", "feature_norms", "fpn_lateral_blocks", "conv_norm_relu",
    "fpn_conv_blocks", "fusion_block", "mlp_stage", "fuse_stage",
    "conv_exp", r"_(?:blocks|bn\d|conv_stem|expand_conv|depthwise_conv|se_reduce|se_expand|project_conv)",
    "rbr_conv", "rbr_scale", "rbr_skip", "reparam_conv", "classification_head", r"patch_embed\d",
    "patch_embed", "hidden_states_norms",
    "fuse_layers", "incre_modules",
)  # fmt: skip
"""Names of torch modules that contain "_". Any other "_" in a layer's name stands for a "."."""
FLATTENED = ("stem", "stages", "layers")
"""Sequential modules of timm whose members smp has one level higher: "encoder.model.stages_0" for "encoder.stages.0"."""
PARTS = ("encoder_", "decoder_", "segmentation_head_", "classifier_", "aux_classifier_", "classification_head_")
"""Prefixes of the names of layers that have a torch module."""


def export_torch_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the state_dict, arrays by key, that the same model in PyTorch loads with strict=True.

    model: a kseg model on a torch-layout backbone, or such a backbone alone. Keys are those of smp or, for torchvision's models,
    of torchvision; for a backbone those of timm and torchvision; for the form of transformers those of its saved files
    (kseg.models.transformers_keys). Backbones that smp takes from timm get the keys of its "tu-" encoders, which compute
    the same.
    Parameters and statistics are exact. Tensors that kseg does not have are filled in: `num_batches_tracked` with 0 (torch reads
    it only if momentum is None), stages and attention that are not used, and in smp's EfficientNets the unused last
    convolution and its norm (zeros and identity).

    Raises KsegError for keras-cv's backbones, which no PyTorch library has.
    """
    layers = layers_with_weights(model)
    foreign = sorted(name for name in layers if not name.startswith(PARTS))
    if foreign:
        raise KsegError(
            f"layer {foreign[0]} has no PyTorch module; only models on torch-layout backbones can be exported, not keras-cv's"
        )
    if "classifier_4" not in layers:  # in PyTorch only torchvision's models have an auxiliary head
        layers = {name: layer for name, layer in layers.items() if not name.startswith("aux_classifier_")}
    alone = all(name.startswith("encoder_") for name in layers)
    encoder = "" if alone else "backbone." if "classifier_4" in layers else "encoder."
    transformers = has_transformers_form(layers) and not alone
    if "classifier_4" in layers or transformers:  # only smp's models have a classification head
        layers = {name: layer for name, layer in layers.items() if not name.startswith("classification_head_")}
    backbone = _registered_name(model)
    timms = _is_timms(backbone, layers)
    if encoder == "encoder." and not transformers and timms:
        encoder = "encoder.model."
    state: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        path = re.sub("^encoder[.]", encoder, torch_path(name))
        path = re.sub(rf"^encoder\.model\.({'|'.join(FLATTENED)})\.(?=\d)", r"encoder.model.\1_", path)
        weights = layer.get_weights()
        for tensor, weight in zip(tensor_names(layer), weights, strict=True):
            if is_kernel(layer, weight.shape):
                weight = weight.transpose(np.argsort(kernel_axes(layer)))
            state[f"{path}.{tensor}"] = np.array(weight, order="C")  # its own memory
        if isinstance(layer, keras.layers.BatchNormalization):
            state[f"{path}.num_batches_tracked"] = np.array(0, "int64")
    for block in blocks_with_unused_attention(layers):
        state |= _unused_attention(block, layers[f"{block}_conv1_0"].kernel.shape[2])
    if backbone is None or not BACKBONES[backbone].info["truncated"]:
        state |= _unread_stages(model, encoder)
    if "encoder__conv_stem" in layers or ("encoder_conv_stem" in layers and not timms):  # smp's EfficientNets
        state |= _smps_efficientnet_head(state, encoder)
    if transformers:
        if "encoder_patch_embed_proj" in layers:  # transformers' Swin has a last norm that nothing reads
            like = state["encoder.hidden_states_norms.stage4.weight"]
            state |= {"encoder.norm.weight": np.ones_like(like), "encoder.norm.bias": np.zeros_like(like)}
        return to_transformers(state)
    return state


def export_transformers_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the tensors, arrays by key, of the model.safetensors that transformers reads with from_pretrained.

    model: segformer or upernet, built with form="transformers". There is no auxiliary head; `num_batches_tracked` is 0.
    Raises KsegError for other models.
    """
    layers = layers_with_weights(model)
    if "segmentation_head_0" not in layers or not has_transformers_form(layers):
        raise KsegError(
            f"{model.name} has not the form of transformers, which computes other numbers with the same weights; build "
            "segformer or upernet with form='transformers' (--model_options=form=transformers)"
        )
    return export_torch_weights(model)


def torch_path(name: str) -> str:
    """Returns the torch module path of a layer name: "encoder_blocks_0_0_conv_dw" is "encoder.blocks.0.0.conv_dw"."""
    compound = rf"(?<![^_])(?:{'|'.join(COMPOUND)})(?![^_])"
    return re.sub(f"{compound}|_", lambda match: "." if match[0] == "_" else match[0], name)


def _registered_name(model: keras.Model) -> str | None:
    """Returns the registered name of the model's backbone, if it is known here."""
    names = (layer.registered_name for layer in (model, *model.layers) if isinstance(layer, Backbone))
    return next((name for name in names if name in BACKBONES), None)


def _is_timms(name: str | None, layers: dict[str, keras.Layer]) -> bool:
    """Returns True for a backbone that smp takes from timm. name: the registered one."""
    if name is not None:
        return (name_in("smp", name) or "").startswith("tu-")
    # Files of earlier versions have no name. Of timm's networks they had EfficientNet, whose two forms differ in this.
    return "encoder_conv_stem" in layers and layers["encoder_bn1"].epsilon > 1e-4


def _unused_attention(block: str, channels: int) -> dict[str, np.ndarray]:
    """Returns zeros for the attention of smp's block without a skip, which does nothing. channels: of the block's input."""
    shapes = {"cSE_1": (channels // 16, channels), "cSE_3": (channels, channels // 16), "sSE_0": (1, channels)}
    filled: dict[str, np.ndarray] = {}
    for part, shape in shapes.items():
        path = torch_path(f"{block}_attention1_attention_{part}")
        filled |= {f"{path}.weight": np.zeros((*shape, 1, 1), "float32"), f"{path}.bias": np.zeros(shape[0], "float32")}
    return filled


def _unread_stages(model: keras.Model, encoder: str) -> dict[str, np.ndarray]:
    """Returns tensors for the stages of the backbone that the decoder does not read: zeros, and the identity for batch norm."""
    filled: dict[str, np.ndarray] = {}
    for backbone in (layer for layer in model.layers if isinstance(layer, Backbone)):
        for name, shapes in backbone.unread.items():
            path = re.sub("^encoder[.]", encoder, torch_path(name))
            filled |= {f"{path}.{tensor}": np.zeros(shape, "float32") for tensor, shape in shapes.items()}
            if "running_var" in shapes:
                filled |= {f"{path}.{tensor}": np.ones(shapes[tensor], "float32") for tensor in ("weight", "running_var")}
                filled[f"{path}.num_batches_tracked"] = np.array(0, "int64")
    return filled


def _smps_efficientnet_head(state: dict[str, np.ndarray], encoder: str) -> dict[str, np.ndarray]:
    """Returns what smp's encoder has unused: a 1x1 convolution to four times the channels, or 1280 in Lite, and its norm."""
    own = f"{encoder}_conv_stem.weight" in state  # efficientnet_pytorch's names, else timm's
    conv, norm, last = ("_conv_head", "_bn1", "._project_conv") if own else ("conv_head", "bn2", ".conv_pwl")
    channels = [array.shape[0] for key, array in state.items() if key.endswith(f"{last}.weight")][-1]
    filters = 4 * channels if own or any(".se." in key for key in state) else 1280
    filled = {f"{encoder}{conv}.weight": np.zeros((filters, channels, 1, 1), "float32")}
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        filled[f"{encoder}{norm}.{name}"] = np.full(filters, value, "float32")
    return {**filled, f"{encoder}{norm}.num_batches_tracked": np.array(0, "int64")}
