"""Exports a model's weights as a PyTorch state_dict for smp, torchvision or timm. The inverse of kseg.models.pytorch.load."""

import re

import keras
import numpy as np

from kseg.models.pytorch.load import kernel_axes, layers_with_weights, tensor_names
from kseg.utils.errors import KsegError

COMPOUND = (
    "segmentation_head", "aux_classifier", "seg_blocks", "skip_conv", "se_module", "conv_stem", "conv_pw", "conv_pwl", "conv_dw",
    "conv_reduce", "conv_expand", "score_fr", "score_pool3", "score_pool4", "upscore_pool4",
)  # fmt: skip
"""Names of torch modules that contain "_". Any other "_" in a layer's name stands for a "."."""
PARTS = ("encoder_", "decoder_", "segmentation_head_", "classifier_", "aux_classifier_")
"""Prefixes of the names of layers that have a torch module."""


def export_torch_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the state_dict, arrays by key, that the same model in PyTorch loads with strict=True.

    model: a kseg model on a torch-layout backbone, or such a backbone alone. Keys are those of smp or, for torchvision's models,
    of torchvision; for a backbone those of timm and torchvision. tf_efficientnet backbones get the keys of smp's
    "tu-tf_efficientnet" encoders, which compute the same.
    Parameters and statistics are exact. Tensors that kseg does not have are filled in: `num_batches_tracked` with 0 (torch reads
    it only if momentum is None), and in smp's timm-efficientnet encoders the unused conv_head and bn2 (zeros and identity).

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
    if not alone and "encoder_conv_stem" in layers and _is_timms(layers):
        encoder = "encoder.model."
    state: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        path = re.sub("^encoder[.]", encoder, torch_path(name))
        weights = layer.get_weights()
        for tensor, weight in zip(tensor_names(layer), weights, strict=True):
            if weight.ndim == 4:
                weight = weight.transpose(np.argsort(kernel_axes(layer)))
            state[f"{path}.{tensor}"] = np.ascontiguousarray(weight)
        if isinstance(layer, keras.layers.BatchNormalization):
            state[f"{path}.num_batches_tracked"] = np.array(0, "int64")
    if "encoder_conv_stem" in layers and not _is_timms(layers):
        state |= _smps_efficientnet_head(state, encoder)
    return state


def torch_path(name: str) -> str:
    """Returns the torch module path of a layer name: "encoder_blocks_0_0_conv_dw" is "encoder.blocks.0.0.conv_dw"."""
    compound = rf"(?<![^_])(?:{'|'.join(COMPOUND)})(?![^_])"
    return re.sub(f"{compound}|_", lambda match: "." if match[0] == "_" else match[0], name)


def _is_timms(layers: dict[str, keras.Layer]) -> bool:
    """Returns True for timm's form of EfficientNet, False for smp's. They differ in batch norm's epsilon."""
    return layers["encoder_bn1"].epsilon > 1e-4


def _smps_efficientnet_head(state: dict[str, np.ndarray], encoder: str) -> dict[str, np.ndarray]:
    """Returns the unused tensors of smp's encoder: a 1x1 convolution to four times the channels, or 1280 in Lite, and bn2."""
    channels = next(array.shape[0] for key, array in state.items() if key.startswith(f"{encoder}blocks.6.0.conv_pwl."))
    filters = 4 * channels if any(".se." in key for key in state) else 1280
    filled = {f"{encoder}conv_head.weight": np.zeros((filters, channels, 1, 1), "float32")}
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        filled[f"{encoder}bn2.{name}"] = np.full(filters, value, "float32")
    return {**filled, f"{encoder}bn2.num_batches_tracked": np.array(0, "int64")}
