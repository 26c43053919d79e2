"""Xception (Chollet 2017, arXiv:1610.02357) in smp's form. timm's `legacy_xception` has the same weights.

smp pads the first two convolutions and takes features before their ReLU; timm does neither.
"""

from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import batch_norm, bn_relu, conv, depthwise_conv
from kseg.models.layers import PaddedMaxPool

MIDDLE = 728
BLOCKS = (
    (2, (128, 128)), (2, (256, 256)), (2, (MIDDLE, MIDDLE)), *((1, (MIDDLE, MIDDLE, MIDDLE)) for _ in range(8)),
    (2, (MIDDLE, 1024)),
)  # fmt: skip
"""Stride of each block, and channels of its separable convolutions."""
LEVEL_AFTER_BLOCK = {1: "c2", 2: "c3", 11: "c4"}


def build(*, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone; see kseg.models.build.build_backbone. output_stride: 32.

    Features c1 to c5 as in smp: c2 to c5 are linear (128, 256, 728 and 2048 channels). Sizes are rounded up.
    """
    images = keras.Input(input_shape, name="images")
    x = bn_relu(conv(images, 32, 3, stride=2, name="encoder_conv1"), "encoder_bn1", "encoder_relu1")
    x = bn_relu(conv(x, 64, 3, name="encoder_conv2"), "encoder_bn2", "encoder_relu2")
    levels = {"c1": x}
    for number, (stride, filters) in enumerate(BLOCKS, start=1):
        x = _block(x, filters, stride=stride, relu_first=number > 1, name=f"encoder_block{number}")
        if number in LEVEL_AFTER_BLOCK:
            levels[LEVEL_AFTER_BLOCK[number]] = x
    x = bn_relu(_separable_conv(x, 1536, "encoder_conv3"), "encoder_bn3", "encoder_relu3")
    levels["c5"] = batch_norm(_separable_conv(x, 2048, "encoder_conv4"), "encoder_bn4")
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, filters: tuple[int, ...], *, stride: int, relu_first: bool, name: str) -> Any:
    """ReLU, separable convolution and batch norm, once for each of `filters`; then a max pool, and the shortcut."""
    y, index = x, 0  # the index in torch's Sequential
    for number, channels in enumerate(filters):
        if number > 0 or relu_first:
            y, index = keras.layers.ReLU(name=f"{name}_rep_{index}")(y), index + 1
        y = _separable_conv(y, channels, f"{name}_rep_{index}")
        y, index = batch_norm(y, f"{name}_rep_{index + 1}"), index + 2
    if stride > 1:
        y = PaddedMaxPool(name=f"{name}_rep_{index}")(y)
        x = batch_norm(conv(x, y.shape[-1], 1, stride=stride, name=f"{name}_skip"), f"{name}_skipbn")
    return keras.layers.Add(name=f"{name}_add")([y, x])


def _separable_conv(x: Any, filters: int, name: str) -> Any:
    return conv(depthwise_conv(x, 3, fan="fan_in", name=f"{name}_conv1"), filters, 1, name=f"{name}_pointwise")


_HALF = (0.5, 0.5, 0.5)
_REVISION = "01cfaf27c11353b1f0c578e7e26d2c000ea91049"
register_backbone(
    "xception",
    build,
    output_strides=(32,),
    weights={"imagenet": HubWeights("smp-hub/xception.imagenet", _REVISION, mean=_HALF, std=_HALF)},
    first_layer="conv1",
    unused_keys=("fc", "last_linear"),
    names={"smp": "xception"},
)
