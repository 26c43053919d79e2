"""EfficientNetV2 (Tan and Le 2021, arXiv:2104.00298) in timm's layout, with TensorFlow's padding and epsilon.

`tf_efficientnetv2_s` is segmentation_models.pytorch's `tu-tf_efficientnetv2_s`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.efficientnet import HALF, SQUEEZE
from kseg.models.backbones.inverted_residual import Style, add_shortcut, inverted_residual, stage_plan
from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import conv
from kseg.models.layers import NORMALIZATIONS


@dataclass(frozen=True)
class Member:
    """Settings of a member of the family.

    stem: its channels. blocks, channels: of each stage. tag: timm's of its default weights.
    """

    stem: int
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    tag: str


MEMBERS = {
    "b0": Member(32, (1, 2, 2, 3, 5, 8), (16, 32, 48, 96, 112, 192), "in1k"),
    "b1": Member(32, (2, 3, 3, 4, 6, 9), (16, 32, 48, 96, 112, 192), "in1k"),
    "b2": Member(32, (2, 3, 3, 4, 6, 10), (16, 32, 56, 104, 120, 208), "in1k"),
    "b3": Member(40, (2, 3, 3, 5, 7, 12), (16, 40, 56, 112, 136, 232), "in21k_ft_in1k"),
    "s": Member(24, (2, 4, 4, 6, 9, 15), (24, 48, 64, 128, 160, 256), "in21k_ft_in1k"),
    "m": Member(24, (3, 5, 5, 7, 14, 18, 5), (24, 48, 80, 160, 176, 304, 512), "in21k_ft_in1k"),
    "l": Member(32, (4, 7, 7, 10, 19, 25, 7), (32, 64, 96, 192, 224, 384, 640), "in21k_ft_in1k"),
}
NORMALIZATION = {"in1k": NORMALIZATIONS["imagenet"], "in21k_ft_in1k": HALF}
"""Mean and std by tag. `in21k_ft_in1k` was trained on ImageNet-21k, then on ImageNet."""
STAGES = (
    ("plain", 1, 1),
    ("fused", 2, 4),
    ("fused", 2, 4),
    ("inverted", 2, 4),
    ("inverted", 1, 6),
    ("inverted", 2, 6),
    ("inverted", 1, 6),
)
"""Block, stride and expansion of each stage. The small members have no seventh."""
STYLE = Style(same=True, epsilon=1e-3)


def build(size: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds tf_efficientnetv2_<size>; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    output_stride 16 or 8: the last stages keep their resolution and are dilated, as in timm (see stage_plan).
    """
    member = MEMBERS[size]
    images = keras.Input(input_shape, name="images")
    x = conv(images, member.stem, 3, stride=2, same=True, name="encoder_conv_stem")
    x = STYLE.norm_act(x, "silu", "encoder_bn1")
    levels, level = {}, 1
    plan = stage_plan([stride for _, stride, _ in STAGES], output_stride, late_dilation=True)
    for stage, (blocks, channels) in enumerate(zip(member.blocks, member.channels, strict=True)):
        kind, nominal_stride, expansion = STAGES[stage]
        stride, first_dilation, dilation = plan[stage]
        for number in range(blocks):
            x = _block(
                x,
                channels,
                kind,
                expansion,
                stride=stride if number == 0 else 1,
                dilation=first_dilation if number == 0 else dilation,
                name=f"encoder_blocks_{stage}_{number}",
            )
        level += nominal_stride == 2
        levels[f"c{level}"] = x
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, channels: int, kind: str, expansion: int, *, stride: int, dilation: int, name: str) -> Any:
    """A 3x3 convolution ("plain"), or one to more channels and a 1x1 back ("fused"), or an inverted residual; plus x."""
    expanded = expansion * x.shape[-1]
    if kind == "inverted":
        return inverted_residual(
            x,
            channels,
            3,
            STYLE,
            expanded=expanded,
            squeezed=x.shape[-1] // SQUEEZE,
            activation="silu",
            stride=stride,
            dilation=dilation,
            name=name,
        )
    if kind == "fused":
        y = conv(x, expanded, 3, stride=stride, dilation=dilation, same=True, name=f"{name}_conv_exp")
        y = STYLE.norm_act(y, "silu", f"{name}_bn1")
        y = STYLE.norm(conv(y, channels, 1, name=f"{name}_conv_pwl"), f"{name}_bn2")
    else:
        y = conv(x, channels, 3, stride=stride, dilation=dilation, same=True, name=f"{name}_conv")
        y = STYLE.norm_act(y, "silu", f"{name}_bn1")
    return add_shortcut(y, x, stride=stride, name=name)


for _size, _member in MEMBERS.items():
    _name = f"tf_efficientnetv2_{_size}"
    _mean, _std = NORMALIZATION[_member.tag]
    register_backbone(
        _name,
        partial(build, _size),
        output_strides=(8, 16, 32),
        weights={"imagenet": HubWeights(f"timm/{_name}.{_member.tag}", mean=_mean, std=_std)},
        first_layer="conv_stem",
        unused_keys=("conv_head", "bn2", "classifier"),
        names={"timm": _name},
    )
