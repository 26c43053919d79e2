"""DeepLabV3."""

from typing import Any

import keras

from kseg.models.blocks import aspp, batch_norm, head, torch_uniform
from kseg.models.layers import Conv2D
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=8, levels=("c5",))
def deeplabv3(
    features: dict[str, Any], *, num_classes: int, dilation_rates: tuple[int, ...] = (12, 24, 36), dropout: float = 0.5
) -> Any:
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587), laid out as smp's DeepLabV3.

    features: c5 [B, H/s, W/s, C] with s the output stride. dilation_rates: of the ASPP branches, which are not separable.
    dropout: of the ASPP's output. Returns logits [B, H/s, W/s, num_classes].
    """
    x = aspp(features["c5"], dilation_rates=dilation_rates, separable=False, dropout=dropout, name="decoder_aspp")
    initializer = torch_uniform(9 * x.shape[-1])
    x = Conv2D(256, 3, padding="same", use_bias=False, kernel_initializer=initializer, name="decoder_conv")(x)
    x = keras.layers.ReLU(name="decoder_relu")(batch_norm(x, "decoder_bn"))
    return head(x, num_classes)
