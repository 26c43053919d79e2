"""Pyramid attention network."""

from typing import Any

import keras

from kseg.models.blocks import batch_norm, head
from kseg.models.layers import Conv2D, MaxPoolHalf, Resize
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=16, levels=("c2", "c3", "c4", "c5"))
def pan(features: dict[str, Any], *, num_classes: int, decoder_channels: int = 32) -> Any:
    """PAN (Li et al. 2018, arXiv:1805.10180) on a backbone, laid out as smp's PAN.

    features: c2 [B, H/4, W/4, C2] to c5 [B, H/s, W/s, C5] with s the output stride, 16 or 32. smp needs 8 x 8 pixels at c5; here
    a smaller map is as small as its pool can make it.
    decoder_channels: of the decoder. Returns logits [B, H/4, W/4, num_classes].
    """
    x = _feature_pyramid_attention(features["c5"], decoder_channels, "decoder_fpa")
    for level in ("c4", "c3", "c2"):
        x = _global_attention_upsample(features[level], x, decoder_channels, f"decoder_gau{int(level[1]) - 1}")
    return head(x, num_classes, kernel_size=3)


def _feature_pyramid_attention(x: Any, filters: int, name: str) -> Any:
    """Weighs x [B, h, w, C] by a pyramid of three scales of one channel each. Returns [B, h, w, filters]."""
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_branch1_0")(x)
    pooled = Resize(True, name=f"{name}_branch1_up")([_conv_bn_relu(pooled, filters, 1, f"{name}_branch1_1"), x])
    middle = _conv_bn_relu(x, filters, 1, f"{name}_mid_0")
    down1 = _conv_bn_relu(MaxPoolHalf(name=f"{name}_down1_0")(x), 1, 7, f"{name}_down1_1")
    down2 = _conv_bn_relu(MaxPoolHalf(name=f"{name}_down2_0")(down1), 1, 5, f"{name}_down2_1")
    down3 = _conv_bn_relu(MaxPoolHalf(name=f"{name}_down3_0")(down2), 1, 3, f"{name}_down3_1")
    down3 = _conv_bn_relu(down3, 1, 3, f"{name}_down3_2")
    y = Resize(True, divisor=4, name=f"{name}_up3")([down3, x])
    y = keras.layers.Add(name=f"{name}_add2")([_conv_bn_relu(down2, 1, 5, f"{name}_conv2"), y])
    y = Resize(True, divisor=2, name=f"{name}_up2")([y, x])
    y = keras.layers.Add(name=f"{name}_add1")([y, _conv_bn_relu(down1, 1, 7, f"{name}_conv1")])
    y = Resize(True, name=f"{name}_up1")([y, x])
    return keras.layers.Add(name=f"{name}_add")([keras.layers.Multiply(name=f"{name}_scale")([y, middle]), pooled])


def _global_attention_upsample(low: Any, high: Any, filters: int, name: str) -> Any:
    """Adds the low level, with channels weighed by the high one, to the high level at the low one's size."""
    up = Resize(True, name=f"{name}_up")([high, low])
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_conv1_0")(high)
    gate = keras.layers.Activation("sigmoid", name=f"{name}_conv1_2")(_conv_bn(gate, filters, 1, f"{name}_conv1_1"))
    x = _conv_bn_relu(low, filters, 3, f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([up, keras.layers.Multiply(name=f"{name}_scale")([x, gate])])


def _conv_bn(x: Any, filters: int, size: int, name: str) -> Any:
    """A convolution with bias, and batch norm: smp's ConvBnRelu without its last part."""
    x = Conv2D(filters, size, padding="same", kernel_initializer="he_uniform", name=f"{name}_conv")(x)
    return batch_norm(x, f"{name}_bn")


def _conv_bn_relu(x: Any, filters: int, size: int, name: str) -> Any:
    return keras.layers.ReLU(name=f"{name}_activation")(_conv_bn(x, filters, size, name))
