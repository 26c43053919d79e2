"""PSPNet."""

from typing import Any

import keras

from kseg.models.blocks import conv_norm_relu, head
from kseg.models.layers import AdaptiveAveragePool, Resize
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=32, levels=lambda depth=3, **_: (f"c{depth}",))
def pspnet(
    features: dict[str, Any],
    *,
    num_classes: int,
    depth: int = 3,
    psp_channels: int = 512,
    dropout: float = 0.2,
    norm: str = "batch",
) -> Any:
    """PSPNet (Zhao et al. 2017, arXiv:1612.01105), laid out as smp's PSPNet.

    features: c<depth> [B, H/s, W/s, C]. depth: 3 as in smp, with s = 8; 5 with an output stride of 8 is the paper's.
    psp_channels: of the last convolution. dropout: of whole channels of it. norm: "batch", or "none" for biases instead.
    Returns logits [B, H/s, W/s, num_classes].
    """
    x = features[f"c{depth}"]
    branches = []
    for i, bins in enumerate((1, 2, 3, 6)):
        name = f"decoder_psp_blocks_{i}"
        pooled = AdaptiveAveragePool(bins, name=f"{name}_pool_0")(x)
        # A single bin has one value an image, which batch norm cannot normalise at batch 1.
        pooled = conv_norm_relu(pooled, x.shape[-1] // 4, 1, norm="none" if bins == 1 else norm, name=f"{name}_pool_1")
        branches.append(Resize(align_corners=True, name=f"{name}_up")([pooled, x]))
    x = keras.layers.Concatenate(name="decoder_psp_concat")([*branches, x])
    x = conv_norm_relu(x, psp_channels, 1, norm=norm, name="decoder_conv")
    return head(keras.layers.SpatialDropout2D(dropout, name="decoder_dropout")(x), num_classes, kernel_size=3)
