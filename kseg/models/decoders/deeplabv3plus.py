"""DeepLabV3+."""

from typing import Any

import keras

from kseg.models.blocks import aspp, conv_bn_relu, head, separable_conv_bn_relu
from kseg.models.layers import Resize
from kseg.models.registry import register_model


@register_model(backbone="keras_cv/resnet18", output_stride=16, levels=("c2", "c5"))
def deeplabv3plus(
    features: dict[str, Any], *, num_classes: int, dilation_rates: tuple[int, ...] = (12, 24, 36), dropout: float = 0.5
) -> Any:
    """DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611), laid out as smp's DeepLabV3Plus.

    features: c2 [B, H/4, W/4, C], c5 [B, H/s, W/s, D] with s the output stride. dilation_rates: of the separable ASPP branches.
    dropout: of the ASPP's output. Returns logits [B, H/4, W/4, num_classes].
    """
    context = aspp(features["c5"], dilation_rates=dilation_rates, separable=True, dropout=dropout, name="decoder_aspp_0")
    # In smp these are members 1 to 3 of decoder.aspp: SeparableConv2d, BatchNorm2d, ReLU.
    context = separable_conv_bn_relu(context, 256, name="decoder_aspp", first=1)
    detail = conv_bn_relu(features["c2"], 48, 1, name="decoder_block1")
    context = Resize(align_corners=True, name="decoder_up")([context, detail])
    fused = keras.layers.Concatenate(name="decoder_concat")([context, detail])
    return head(separable_conv_bn_relu(fused, 256, name="decoder_block2"), num_classes)
