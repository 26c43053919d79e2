"""ResNet and ResNeXt in the layout of torchvision, timm and smp.

He et al. 2016 (arXiv:1512.03385) with the stride on the 3x3 convolution ("v1.5"); Xie et al. 2017 (arXiv:1611.05431).
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
    late_dilation: the first block of a dilated stage has the dilation of the stage before it, as in torchvision's segmentation
    models. Otherwise it has that of its own stage, as in smp.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    groups: int = 1
    width: int = 64
    late_dilation: bool = False


VARIANTS = {
    "resnet18": Variant((2, 2, 2, 2), bottleneck=False),
    "resnet34": Variant((3, 4, 6, 3), bottleneck=False),
    "resnet50": Variant((3, 4, 6, 3), bottleneck=True),
    "resnet101": Variant((3, 4, 23, 3), bottleneck=True),
    "resnet152": Variant((3, 8, 36, 3), bottleneck=True),
    "resnext50_32x4d": Variant((3, 4, 6, 3), bottleneck=True, groups=32, width=4),
    "resnext101_32x8d": Variant((3, 4, 23, 3), bottleneck=True, groups=32, width=8),
    "torchvision_resnet50": Variant((3, 4, 6, 3), bottleneck=True, late_dilation=True),
    "torchvision_resnet101": Variant((3, 4, 23, 3), bottleneck=True, late_dilation=True),
}

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
    "resnext101_32x8d": {
        "imagenet": "221af6198d03a4ee88992f78a1ee81b46a52d339",
        "instagram": "44cd927aa6e64673ffe9d31230bad44abc18b823",
        "ssl": "723a95ddeed335c9488c37c6cbef13d779ac8f97",
        "swsl": "58cf0bb65f91365470398080d9588b187d1777c4",
    },
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated from their first block on, as in smp.
    torchvision_resnet50 and _resnet101 only have stride 8, with torchvision's late_dilation.
    """
    variant = VARIANTS[name]
    images = keras.Input(input_shape, name="images")
    x = conv(images, 64, 7, stride=2, name="encoder_conv1")
    x = bn_relu(x, "encoder_bn1", "encoder_relu")
    levels = {"c1": x}
    # After a ReLU, padding with zeros equals padding with minus infinity.
    x = keras.layers.ZeroPadding2D(1, name="encoder_maxpool_pad")(x)
    x = MaxPooling2D(3, 2, name="encoder_maxpool")(x)
    block = _bottleneck if variant.bottleneck else _basic
    for stage, blocks in enumerate(variant.blocks):
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        stride = 1 if stage == 0 or dilation > 1 else 2
        for number in range(blocks):
            name = f"encoder_layer{stage + 1}_{number}"
            own = max(1, dilation // 2) if variant.late_dilation and number == 0 else dilation
            x = block(x, 64 * 2**stage, variant, stride=stride if number == 0 else 1, dilation=own, name=name)
        levels[f"c{stage + 2}"] = x
    return keras.Model(images, levels, name="backbone")


def _basic(x: Any, filters: int, variant: Variant, *, stride: int, dilation: int, name: str) -> Any:
    y = conv(x, filters, 3, stride=stride, dilation=dilation, name=f"{name}_conv1")
    y = bn_relu(y, f"{name}_bn1", f"{name}_relu1")
    y = conv(y, filters, 3, dilation=dilation, name=f"{name}_conv2")
    return _add(x, batch_norm(y, f"{name}_bn2"), stride, name)


def _bottleneck(x: Any, filters: int, variant: Variant, *, stride: int, dilation: int, name: str) -> Any:
    width = filters * variant.width // 64 * variant.groups
    y = bn_relu(conv(x, width, 1, name=f"{name}_conv1"), f"{name}_bn1", f"{name}_relu1")
    y = conv(y, width, 3, stride=stride, dilation=dilation, groups=variant.groups, name=f"{name}_conv2")
    y = bn_relu(y, f"{name}_bn2", f"{name}_relu2")
    y = conv(y, 4 * filters, 1, name=f"{name}_conv3")
    return _add(x, batch_norm(y, f"{name}_bn3"), stride, name)


def _add(x: Any, y: Any, stride: int, name: str) -> Any:
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = batch_norm(conv(x, y.shape[-1], 1, stride=stride, name=f"{name}_downsample_0"), f"{name}_downsample_1")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


for _name, _variant in VARIANTS.items():
    _hub = _name.removeprefix("torchvision_")
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=(8,) if _variant.late_dilation else (8, 16, 32),
        first_layer="conv1",
        weights={tag: HubWeights(f"smp-hub/{_hub}.{tag}", revision) for tag, revision in REVISIONS[_hub].items()},
        unused_keys=("fc",),
    )
