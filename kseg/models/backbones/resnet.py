"""ResNet and ResNeXt in the layout of torchvision, timm and smp, and timm's ResNet-D.

He et al. 2016 (arXiv:1512.03385) with the stride on the 3x3 convolution ("v1.5"); Xie et al. 2017 (arXiv:1611.05431).
`resnet50d` and so on are ResNet-D (He et al. 2019, arXiv:1812.01187).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import batch_norm, bn_relu, conv
from kseg.models.layers import MaxPooling2D


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family.

    blocks: in each of the four stages. bottleneck: three convolutions per block, else two. groups, width: of the 3x3 convolution.
    late_dilation: the first block of a dilated stage has the dilation of the stage before it, as in timm and in torchvision's
    segmentation models. Otherwise it has that of its own stage, as in smp.
    deep: ResNet-D, with a stem of three 3x3 convolutions, and shortcuts that take means instead of every second pixel.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    groups: int = 1
    width: int = 64
    late_dilation: bool = False
    deep: bool = False
    output_strides: tuple[int, ...] = (8, 16, 32)


VARIANTS = {
    "resnet18": Variant((2, 2, 2, 2), bottleneck=False),
    "resnet34": Variant((3, 4, 6, 3), bottleneck=False),
    "resnet50": Variant((3, 4, 6, 3), bottleneck=True),
    "resnet101": Variant((3, 4, 23, 3), bottleneck=True),
    "resnet152": Variant((3, 8, 36, 3), bottleneck=True),
    "resnext50_32x4d": Variant((3, 4, 6, 3), bottleneck=True, groups=32, width=4),
    "resnext101_32x4d": Variant((3, 4, 23, 3), bottleneck=True, groups=32, width=4),
    "resnext101_32x8d": Variant((3, 4, 23, 3), bottleneck=True, groups=32, width=8),
    "resnext101_32x16d": Variant((3, 4, 23, 3), bottleneck=True, groups=32, width=16),
    "resnext101_32x32d": Variant((3, 4, 23, 3), bottleneck=True, groups=32, width=32),
    "resnext101_32x48d": Variant((3, 4, 23, 3), bottleneck=True, groups=32, width=48),
    "resnet18d": Variant((2, 2, 2, 2), bottleneck=False, late_dilation=True, deep=True),
    "resnet26d": Variant((2, 2, 2, 2), bottleneck=True, late_dilation=True, deep=True),
    "resnet34d": Variant((3, 4, 6, 3), bottleneck=False, late_dilation=True, deep=True),
    "resnet50d": Variant((3, 4, 6, 3), bottleneck=True, late_dilation=True, deep=True),
    "resnet101d": Variant((3, 4, 23, 3), bottleneck=True, late_dilation=True, deep=True),
    "resnet152d": Variant((3, 8, 36, 3), bottleneck=True, late_dilation=True, deep=True),
    "resnet200d": Variant((3, 24, 36, 3), bottleneck=True, late_dilation=True, deep=True),
    "torchvision_resnet50": Variant((3, 4, 6, 3), bottleneck=True, late_dilation=True, output_strides=(8,)),
    "torchvision_resnet101": Variant((3, 4, 23, 3), bottleneck=True, late_dilation=True, output_strides=(8,)),
}
PLAIN = VARIANTS["resnet50"]
"""The blocks' settings in other families."""

REVISIONS = {
    "resnet18": {
        "imagenet": "3f2325ff978283d47aa6a1d6878ca20565622683",
        "ssl": "d600d5116aac2e6e595f99f40612074c723c00b2",
        "swsl": "0e3a35d4d8e344088c14a96eee502a88ac70eae1",
    },
    "resnet34": {"imagenet": "7a57b34f723329ff020b3f8bc41771163c519d0c"},
    "resnet50": {
        "imagenet": "00cb74e366966d59cd9a35af57e618af9f88efe9",
        "ssl": "d07daf5b4377f3700c6ac61906b0aafbc4eca46b",
        "swsl": "b9520cce124f91c6fe7eee45721a2c7954f0d8c0",
    },
    "resnet101": {"imagenet": "cd7c15e8c51da86ae6a084515fdb962d0c94e7d1"},
    "resnet152": {"imagenet": "951dd835e9d086628e447b484584c8983f9e1dd0"},
    "resnext50_32x4d": {
        "imagenet": "329793c85d62fd340ae42ae39fb905a63df872e7",
        "ssl": "9b67cff77d060c7044493a58c24d1007c1eb06c3",
        "swsl": "52e6e49da61b8e26ca691e1aef2cbb952884057d",
    },
    "resnext101_32x4d": {
        "ssl": "b39796c8459084d13523b7016c3ef13a2e9e472b",
        "swsl": "3f8355b4892a31f001a832b49b2b01484d48516a",
    },
    "resnext101_32x8d": {
        "imagenet": "221af6198d03a4ee88992f78a1ee81b46a52d339",
        "instagram": "44cd927aa6e64673ffe9d31230bad44abc18b823",
        "ssl": "723a95ddeed335c9488c37c6cbef13d779ac8f97",
        "swsl": "58cf0bb65f91365470398080d9588b187d1777c4",
    },
    "resnext101_32x16d": {
        "instagram": "64e8e320eeae6501185b0627b2429a68e52d050c",
        "ssl": "1283fe03fbb6aa2599b2df24095255acb93c3d5c",
        "swsl": "30ba61bbd4d6af0d955c513dbb4f557b84eb094f",
    },
    "resnext101_32x32d": {"instagram": "c9405de121fdaa275a89de470fb19409e3eeaa86"},
    "resnext101_32x48d": {"instagram": "53e61a962b824ad7027409821f9ac3e3336dd024"},
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""
LICENCE = "CC BY-NC 4.0, not for commercial use"
"""Of the weights `ssl`, `swsl` and `instagram`."""
TIMM_TAGS = {
    "resnet18d": "ra2_in1k", "resnet26d": "bt_in1k", "resnet34d": "ra2_in1k", "resnet50d": "ra2_in1k", "resnet101d": "ra2_in1k",
    "resnet152d": "ra2_in1k", "resnet200d": "ra2_in1k",
}  # fmt: skip
"""timm's default weights, timm/<name>.<tag>."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated from their first block on, as in smp;
    see Variant.late_dilation. torchvision_resnet50 and _resnet101 only have stride 8.
    """
    variant = VARIANTS[name]
    images = keras.Input(input_shape, name="images")
    x = _deep_stem(images) if variant.deep else conv(images, 64, 7, stride=2, name="encoder_conv1")
    x = bn_relu(x, "encoder_bn1", "encoder_relu")
    levels = {"c1": x}
    # After a ReLU, padding with zeros equals padding with minus infinity.
    x = keras.layers.ZeroPadding2D(1, name="encoder_maxpool_pad")(x)
    x = MaxPooling2D(3, 2, name="encoder_maxpool")(x)
    block = bottleneck if variant.bottleneck else basic_block
    for stage, blocks in enumerate(variant.blocks):
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        stride = 1 if stage == 0 or dilation > 1 else 2
        for number in range(blocks):
            name = f"encoder_layer{stage + 1}_{number}"
            first = max(1, dilation // 2) if variant.late_dilation and number == 0 else dilation
            dilations = first, dilation
            x = block(x, 64 * 2**stage, stride=stride if number == 0 else 1, dilations=dilations, variant=variant, name=name)
        levels[f"c{stage + 2}"] = x
    return keras.Model(images, levels, name="backbone")


def _deep_stem(x: Any) -> Any:
    for index, filters, stride in ((0, 32, 2), (3, 32, 1)):  # the indices in torch's Sequential
        x = conv(x, filters, 3, stride=stride, name=f"encoder_conv1_{index}")
        x = bn_relu(x, f"encoder_conv1_{index + 1}", f"encoder_conv1_{index + 2}")
    return conv(x, 64, 3, name="encoder_conv1_6")


def basic_block(
    x: Any, filters: int, *, stride: int = 1, dilations: tuple[int, int] = (1, 1), variant: Variant = PLAIN, name: str
) -> Any:
    """Two 3x3 convolutions, added to x [B, h, w, C].

    dilations: of each. Returns [B, ceil(h / stride), ceil(w / stride), filters].
    """
    y = conv(x, filters, 3, stride=stride, dilation=dilations[0], name=f"{name}_conv1")
    y = bn_relu(y, f"{name}_bn1", f"{name}_relu1")
    y = conv(y, filters, 3, dilation=dilations[1], name=f"{name}_conv2")
    return _add(x, batch_norm(y, f"{name}_bn2"), variant, stride, dilations[1], name)


def bottleneck(
    x: Any, filters: int, *, stride: int = 1, dilations: tuple[int, int] = (1, 1), variant: Variant = PLAIN, name: str
) -> Any:
    """A 1x1, a 3x3 and a 1x1 convolution to 4 * filters channels, added to x [B, h, w, C].

    dilations: of the 3x3, and of the stage. Returns [B, ceil(h / stride), ceil(w / stride), 4 * filters].
    """
    width = filters * variant.width // 64 * variant.groups
    y = bn_relu(conv(x, width, 1, name=f"{name}_conv1"), f"{name}_bn1", f"{name}_relu1")
    y = conv(y, width, 3, stride=stride, dilation=dilations[0], groups=variant.groups, name=f"{name}_conv2")
    y = bn_relu(y, f"{name}_bn2", f"{name}_relu2")
    y = conv(y, 4 * filters, 1, name=f"{name}_conv3")
    return _add(x, batch_norm(y, f"{name}_bn3"), variant, stride, dilations[1], name)


def _add(x: Any, y: Any, variant: Variant, stride: int, dilation: int, name: str) -> Any:
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        index = 0
        if variant.deep:
            x, stride, index = _means(x, stride, dilation, name), 1, 1
        x = conv(x, y.shape[-1], 1, stride=stride, name=f"{name}_downsample_{index}")
        x = batch_norm(x, f"{name}_downsample_{index + 1}")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _means(x: Any, stride: int, dilation: int, name: str) -> Any:
    """Means of 2x2 pixels at a stride of 2 or, in a dilated stage, 1. Of pixels beyond the image, the former leaves them out."""
    if dilation > 1:  # timm counts zeros there
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_downsample_0_pad")(x)
        return keras.layers.AveragePooling2D(2, 1, name=f"{name}_downsample_0")(x)
    return x if stride == 1 else keras.layers.AveragePooling2D(2, 2, padding="same", name=f"{name}_downsample_0")(x)


def _weights(name: str) -> dict[str, HubWeights]:
    if name in TIMM_TAGS:
        return {"imagenet": HubWeights(f"timm/{name}.{TIMM_TAGS[name]}")}
    name = name.removeprefix("torchvision_")
    return {
        tag: HubWeights(f"smp-hub/{name}.{tag}", revision, licence=None if tag == "imagenet" else LICENCE)
        for tag, revision in REVISIONS[name].items()
    }


def _names(name: str) -> dict[str, str]:
    if name.startswith("torchvision_"):
        plain = name.removeprefix("torchvision_")
        return {"torchvision": plain, "timm": plain}
    if name == "resnext101_32x48d":
        return {"smp": name}
    return {"timm": name} if VARIANTS[name].deep else {"smp": name, "timm": name}


for _name, _variant in VARIANTS.items():
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=_variant.output_strides,
        first_layer="conv1.0" if _variant.deep else "conv1",
        weights=_weights(_name),
        unused_keys=("fc",),
        names=_names(_name),
        truncated=_variant.late_dilation,
    )
