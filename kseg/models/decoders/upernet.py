"""UPerNet."""

from typing import Any

import keras

from kseg.models.blocks import conv_norm_relu, head, layer_norm
from kseg.models.layers import AdaptiveAveragePool, Resize
from kseg.models.registry import register_model


@register_model(
    backbone="resnet34", output_stride=32, levels=("c2", "c3", "c4", "c5"), align_corners=lambda form="smp", **_: form == "smp"
)
def upernet(
    features: dict[str, Any],
    *,
    num_classes: int,
    decoder_channels: int | None = None,
    norm: str = "batch",
    form: str = "smp",
    drop_path: float | None = None,  # the backbone reads it
) -> Any:
    """UPerNet (Xiao et al. 2018, arXiv:1807.10221) on a backbone, laid out as smp's UPerNet.

    A pyramid of pools on the smallest level, a feature pyramid network over all, and their fusion at stride 4.

    features: c2 [B, H/4, W/4, C2] to c5 [B, H/s, W/s, C5] with s the output stride.
    decoder_channels: of the decoder; None for the form's own, 256 in smp's and 512 in that of transformers.
    norm: "batch", or "none" for biases instead; the last convolution of the pools keeps its batch norm, as in smp.
    form: "smp", or "transformers" for what its UperNetForSemanticSegmentation computes: the backbone has the layer norms of the
    levels, which smp's decoder has, and the logits are resized without aligned corners.
    drop_path: the rate of stochastic depth in the backbone's last block; None for the backbone's own.
    Returns logits [B, H/4, W/4, num_classes].
    """
    decoder_channels = decoder_channels or {"smp": 256, "transformers": 512}[form]
    levels = [features[level] for level in ("c2", "c3", "c4", "c5")]
    if form == "smp":
        levels = [layer_norm(x, f"decoder_feature_norms_{i}") for i, x in enumerate(levels)]
    pyramid = [_pool_pyramid(levels[-1], decoder_channels, norm, "decoder_psp")]
    for i, level in enumerate(levels[-2::-1]):
        name = f"decoder_fpn_lateral_blocks_{i}"
        lateral = conv_norm_relu(level, decoder_channels, 1, norm=norm, name=f"{name}_conv_norm_relu")
        above = Resize(align_corners=False, name=f"{name}_up")([pyramid[-1], lateral])
        pyramid.append(keras.layers.Add(name=f"{name}_add")([above, lateral]))
    for i in range(1, len(pyramid)):
        pyramid[i] = conv_norm_relu(pyramid[i], decoder_channels, norm=norm, name=f"decoder_fpn_conv_blocks_{i - 1}")
    resized = [Resize(align_corners=False, name=f"decoder_fusion_up_{i}")([x, pyramid[-1]]) for i, x in enumerate(pyramid)]
    x = keras.layers.Concatenate(name="decoder_fusion_concat")(resized[::-1])
    return head(conv_norm_relu(x, decoder_channels, norm=norm, name="decoder_fusion_block"), num_classes)


def _pool_pyramid(x: Any, filters: int, norm: str, name: str) -> Any:
    """Pools x [B, h, w, C] to 1, 2, 3 and 6 bins a side, and fuses the pools with it. Returns [B, h, w, filters]."""
    branches = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        pooled = AdaptiveAveragePool(bins, name=f"{name}_blocks_{i}_0")(x)
        pooled = conv_norm_relu(pooled, filters, 1, norm=norm, name=f"{name}_blocks_{i}_1")
        branches.append(Resize(align_corners=False, name=f"{name}_blocks_{i}_up")([pooled, x]))
    return conv_norm_relu(keras.layers.Concatenate(name=f"{name}_concat")(branches), filters, name=f"{name}_out_conv")
