"""SENet-154, SE-ResNet and SE-ResNeXt in the layout of their first release: timm's legacy_se*, smp's se_resnet*, se_resnext*.

Hu et al. 2018 (arXiv:1709.01507) on ResNet (He et al. 2016, arXiv:1512.03385) and ResNeXt (Xie et al. 2017, arXiv:1611.05431).
timm's `seresnet*`, `seresnext*` and `senet154` are different networks. smp's `senet154` is timm's `legacy_senet154`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import register_backbone, smp_weights
from kseg.models.blocks import batch_norm, bn_relu, conv, squeeze_excite
from kseg.models.layers import MaxPooling2D


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family.

    blocks: in each of the four stages. widths: of the first two convolutions of a block, in multiples of 64 * 2**stage.
    groups: of the second. early_stride: a stage's stride is on its first 1x1 convolution, as in Caffe's ResNet.
    deep: SENet-154's stem of three convolutions, and 3x3 convolutions on the shortcuts of stages 2 to 4.
    """

    blocks: tuple[int, int, int, int]
    widths: tuple[int, int] = (1, 1)
    groups: int = 1
    early_stride: bool = False
    deep: bool = False


VARIANTS = {
    "legacy_seresnet50": Variant((3, 4, 6, 3), early_stride=True),
    "legacy_seresnet101": Variant((3, 4, 23, 3), early_stride=True),
    "legacy_seresnet152": Variant((3, 8, 36, 3), early_stride=True),
    "legacy_seresnext50_32x4d": Variant((3, 4, 6, 3), widths=(2, 2), groups=32),
    "legacy_seresnext101_32x4d": Variant((3, 4, 23, 3), widths=(2, 2), groups=32),
    "legacy_senet154": Variant((3, 8, 36, 3), widths=(2, 4), groups=64, deep=True),
}
ALIASES = {
    "se_resnet50": "legacy_seresnet50",
    "se_resnet101": "legacy_seresnet101",
    "se_resnet152": "legacy_seresnet152",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "senet154": "legacy_senet154",
}
"""smp's names of timm's networks."""
REDUCTION = 16
REVISIONS = {
    "se_resnet50": {"imagenet": "e6b4bc2dc85226c3d3474544410724a485455459"},
    "se_resnet101": {"imagenet": "71fe95cc0a27f444cf83671f354de02dc741b18b"},
    "se_resnet152": {"imagenet": "e79fc3d9d76f197bd76a2593c2054edf1083fe32"},
    "se_resnext50_32x4d": {"imagenet": "73246406d879a2b0e3fdfe6fddd56347d38f38ae"},
    "se_resnext101_32x4d": {"imagenet": "18808a4276f46421d358a9de554e0b93c2795df4"},
    "senet154": {"imagenet": "249f45efc9881ba560a0c480128edbc34ab87e40"},
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5.

    Sizes are rounded up, except by the stem's max pool: c2 is [B, floor(ceil(H/2) / 2), ...].
    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated from their first block on, as in smp.
    """
    variant = VARIANTS[name]
    x = images = keras.Input(input_shape, name="images")
    stem = ((64, 3), (64, 3), (128, 3)) if variant.deep else ((64, 7),)  # filters, kernel size
    for number, (filters, size) in enumerate(stem, start=1):
        x = conv(x, filters, size, stride=2 if number == 1 else 1, name=f"encoder_layer0_conv{number}")
        x = bn_relu(x, f"encoder_layer0_bn{number}", f"encoder_layer0_relu{number}")
    levels = {"c1": x}
    # torch's ceil_mode: the last window may reach one pixel beyond the image. After a ReLU, zeros there change no maximum.
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="encoder_layer0_pool_pad")(x)
    x = MaxPooling2D(3, 2, name="encoder_layer0_pool")(x)
    for stage, blocks in enumerate(variant.blocks):
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        stride = 1 if stage == 0 or dilation > 1 else 2
        shortcut = 3 if variant.deep and stage > 0 else 1
        for number in range(blocks):
            x = _block(
                x,
                64 * 2**stage,
                variant,
                stride=stride if number == 0 else 1,
                dilation=dilation,
                shortcut=shortcut,
                name=f"encoder_layer{stage + 1}_{number}",
            )
        levels[f"c{stage + 2}"] = x
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, planes: int, variant: Variant, *, stride: int, dilation: int, shortcut: int, name: str) -> Any:
    """ResNet's bottleneck with squeeze-and-excitation before the shortcut is added.

    shortcut: kernel size of the convolution on the shortcut.
    """
    first, second = (planes * width for width in variant.widths)
    strides = (stride, 1) if variant.early_stride else (1, stride)
    y = bn_relu(conv(x, first, 1, stride=strides[0], name=f"{name}_conv1"), f"{name}_bn1", f"{name}_relu1")
    y = conv(y, second, 3, stride=strides[1], dilation=dilation, groups=variant.groups, name=f"{name}_conv2")
    y = bn_relu(y, f"{name}_bn2", f"{name}_relu2")
    y = batch_norm(conv(y, 4 * planes, 1, name=f"{name}_conv3"), f"{name}_bn3")
    y = squeeze_excite(y, 4 * planes // REDUCTION, activation="relu", reduce="fc1", expand="fc2", name=f"{name}_se_module")
    if stride > 1 or x.shape[-1] != 4 * planes:
        x = conv(x, 4 * planes, shortcut, stride=stride, dilation=dilation, name=f"{name}_downsample_0")
        x = batch_norm(x, f"{name}_downsample_1")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([y, x]))


for _alias, _network in ALIASES.items():
    for _name in (_alias, _network):
        register_backbone(
            _name,
            partial(build, _network),
            output_strides=(8, 16, 32),
            weights=smp_weights(_alias, REVISIONS[_alias]),
            first_layer="layer0.conv1",
            unused_keys=("last_linear",),
            names={"smp": _alias, "timm": _network},
        )
