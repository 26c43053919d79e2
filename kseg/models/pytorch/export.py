"""A model's weights as a PyTorch state_dict that loads strictly into smp's, torchvision's or timm's module.

The way back of kseg.models.pytorch.load.
"""

import re

import keras
import numpy as np

from kseg.models.pytorch.load import kernel_axes, tensor_names
from kseg.utils.errors import KsegError

COMPOUND = (
    "segmentation_head", "aux_classifier", "seg_blocks", "skip_conv", "se_module", "conv_stem", "conv_pw", "conv_pwl", "conv_dw",
    "conv_reduce", "conv_expand", "score_fr", "score_pool3", "score_pool4", "upscore_pool4",
)  # fmt: skip
"""Names of torch modules that hold a "_" themselves. Every other "_" of a layer's name stands for a "."."""
PARTS = ("encoder_", "decoder_", "segmentation_head_", "classifier_", "aux_classifier_")
"""What the layers' names begin with that stand for torch modules."""


def export_torch_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the state_dict, arrays by key, that PyTorch's module of the same model loads with strict=True.

    model: one of kseg's on a torch-layout backbone, or such a backbone alone. A model is keyed as smp's or, if it is one of
    torchvision's, as torchvision's; a backbone as timm's and torchvision's. Parameters and statistics are the model's own to the
    byte. What kseg does not keep is filled in: `num_batches_tracked`, which is 0 (torch reads it only where momentum is None),
    and in smp's timm-efficientnet encoders conv_head and bn2, which are behind the last feature and idle (zeros and identity).
    tf_efficientnet backbones are keyed as smp's "tu-tf_efficientnet" encoders, which compute the same.

    Raises KsegError for keras-cv's backbones, which no PyTorch library has.
    """
    layers = {layer.name: layer for layer in model._flatten_layers() if layer.weights and not hasattr(layer, "layers")}
    foreign = sorted(name for name in layers if not name.startswith(PARTS))
    if foreign:
        raise KsegError(
            f"layer {foreign[0]} stands for no PyTorch module; only models on torch-layout backbones can be taken back, "
            "keras-cv's cannot"
        )
    if "classifier_4" not in layers:  # only torchvision's models have an auxiliary head there, too
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
    """Returns the torch module path of a layer: "encoder.blocks.0.0.conv_dw" of "encoder_blocks_0_0_conv_dw"."""
    compound = rf"(?<![^_])(?:{'|'.join(COMPOUND)})(?![^_])"
    return re.sub(f"{compound}|_", lambda match: "." if match[0] == "_" else match[0], name)


def _is_timms(layers: dict[str, keras.Layer]) -> bool:
    """Whether an EfficientNet is timm's form, not smp's: they differ in batch norm's epsilon."""
    return layers["encoder_bn1"].epsilon > 1e-4


def _smps_efficientnet_head(state: dict[str, np.ndarray], encoder: str) -> dict[str, np.ndarray]:
    """What smp's encoder holds and does not use: a 1x1 convolution of the last block to four times its channels."""
    channels = next(array.shape[0] for key, array in state.items() if key.startswith(f"{encoder}blocks.6.0.conv_pwl."))
    filled = {f"{encoder}conv_head.weight": np.zeros((4 * channels, channels, 1, 1), "float32")}
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        filled[f"{encoder}bn2.{name}"] = np.full(4 * channels, value, "float32")
    return {**filled, f"{encoder}bn2.num_batches_tracked": np.array(0, "int64")}
