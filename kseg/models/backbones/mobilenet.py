"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) in torchvision's layout. smp's weights have it too; timm's do not."""

from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import batch_norm, conv, depthwise_conv

STAGES = ((1, 1, 1, 16), (2, 6, 2, 24), (3, 6, 2, 32), (4, 6, 2, 64), (3, 6, 1, 96), (3, 6, 2, 160), (1, 6, 1, 320))
"""Blocks, expansion, stride and channels of each stage."""
STEM, HEAD = 32, 1280
LEVEL_AFTER_BLOCK = {1: "c1", 3: "c2", 6: "c3", 13: "c4"}
"""Levels by the index in torch's `features`; 0 is the stem."""


def build(*, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    c1 to c4 are linear (16, 24, 32 and 96 channels). c5 has the 1280 channels before the classifier's pooling. Both as in smp.
    output_stride 16 or 8: the last stages keep their resolution and are dilated from their first block on, as in smp.
    """
    images = keras.Input(input_shape, name="images")
    x = _norm_relu6(conv(images, STEM, 3, stride=2, name="encoder_features_0_0"), "encoder_features_0")
    levels, index, reached, dilation = {}, 0, 2, 1
    for blocks, expansion, stride, channels in STAGES:
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        for number in range(blocks):
            index += 1
            name = f"encoder_features_{index}"
            x = _block(x, channels, expansion, stride=stride if number == 0 else 1, dilation=dilation, name=name)
            if index in LEVEL_AFTER_BLOCK:
                levels[LEVEL_AFTER_BLOCK[index]] = x
    name = f"encoder_features_{index + 1}"
    levels["c5"] = _norm_relu6(conv(x, HEAD, 1, name=f"{name}_0"), name)
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, channels: int, expansion: int, *, stride: int, dilation: int, name: str) -> Any:
    """Inverted residual: 1x1 to `expansion` times the channels (left out if that is 1), depthwise 3x3, linear 1x1."""
    y, index = x, 0
    if expansion > 1:
        y = _norm_relu6(conv(x, expansion * x.shape[-1], 1, name=f"{name}_conv_0_0"), f"{name}_conv_0")
        index = 1
    path = f"{name}_conv_{index}"
    y = depthwise_conv(y, 3, stride=stride, dilation=dilation, fan="fan_in", name=f"{path}_0")
    y = conv(_norm_relu6(y, path), channels, 1, name=f"{name}_conv_{index + 1}")
    y = batch_norm(y, f"{name}_conv_{index + 2}")
    if stride > 1 or x.shape[-1] != channels:
        return y
    return keras.layers.Add(name=f"{name}_add")([x, y])


def _norm_relu6(x: Any, name: str) -> Any:
    """Batch norm and ReLU6, members 1 and 2 of torch's Sequential `name`."""
    return keras.layers.ReLU(max_value=6.0, name=f"{name}_2")(batch_norm(x, f"{name}_1"))


register_backbone(
    "mobilenet_v2",
    build,
    output_strides=(8, 16, 32),
    weights={"imagenet": HubWeights("smp-hub/mobilenet_v2.imagenet", "e67aa804e17f7b404b629127eabbd224c4e0690b")},
    first_layer="features.0.0",
    unused_keys=("classifier.1",),
    names={"smp": "mobilenet_v2"},
)
