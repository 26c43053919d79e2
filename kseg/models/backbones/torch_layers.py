"""Convolutions as torch computes them, for the backbones in torch's layout: both sides padded alike, where Keras's "same" may
pad the far side more.
"""

from typing import Any

import keras

from kseg.models.layers import Conv2D, DepthwiseConv2D


def conv(
    x: Any,
    filters: int,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    same: bool = False,
    name: str,
) -> Any:
    """torch's Conv2d(padding=dilation * (size // 2)) with Kaiming's initialisation by fan-out.

    same: pad as TensorFlow's "SAME" does instead. x: [B, h, w, C]. Returns [B, ceil(h / stride), ceil(w / stride), filters].
    """
    x, padding = _padded(x, size, stride, dilation, same, name)
    return Conv2D(
        filters, size, strides=stride, dilation_rate=dilation, groups=groups, padding=padding, use_bias=use_bias, name=name,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
    )(x)  # fmt: skip


def depthwise_conv(
    x: Any, size: int, *, stride: int = 1, dilation: int = 1, same: bool = False, fan: str = "fan_out", name: str
) -> Any:
    """`conv` with one filter a channel, without bias.

    fan: the initial weights' variance is 2 / size**2 with "fan_out", as TensorFlow's models have it, and that over the number
    of channels with "fan_in", which is what torch calls a depthwise convolution's fan-out.
    """
    x, padding = _padded(x, size, stride, dilation, same, name)
    return DepthwiseConv2D(
        size, strides=stride, dilation_rate=dilation, padding=padding, use_bias=False, name=name,
        depthwise_initializer=keras.initializers.VarianceScaling(2.0, fan, "untruncated_normal"),
    )(x)  # fmt: skip


def _padded(x: Any, size: int, stride: int, dilation: int, same: bool, name: str) -> tuple[Any, str]:
    """x, with its padding where Keras has no name for it, and the name of the padding that is left to do."""
    if stride == 1 or size == 1 or same:
        return x, "same"
    return keras.layers.ZeroPadding2D(dilation * (size // 2), name=f"{name}_pad")(x), "valid"
