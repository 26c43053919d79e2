"""MobileNetV3 (Howard et al. 2019, arXiv:1905.02244) in timm's layout.

`tf_mobilenetv3_large_100` has TensorFlow's padding and epsilon, `mobilenetv3_large_100` torch's.
segmentation_models.pytorch also calls the former `timm-mobilenetv3_large_100`.
"""

from functools import partial
from typing import NamedTuple

import keras

from kseg.models.backbones.efficientnet import HALF, SQUEEZE
from kseg.models.backbones.inverted_residual import Style, inverted_residual, round_channels, stage_plan
from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import conv


class Stage(NamedTuple):
    """Settings of a stage. expanded: channels inside each block. excited: with squeeze-and-excitation."""

    kernel: int
    stride: int
    expanded: tuple[int, ...]
    channels: int
    excited: bool
    activation: str


STEM = 16
STAGES = {
    "large": (
        Stage(3, 1, (16,), 16, False, "relu"),
        Stage(3, 2, (64, 72), 24, False, "relu"),
        Stage(5, 2, (72, 120, 120), 40, True, "relu"),
        Stage(3, 2, (240, 200, 184, 184), 80, False, "hard_silu"),
        Stage(3, 1, (480, 672), 112, True, "hard_silu"),
        Stage(5, 2, (672, 960, 960), 160, True, "hard_silu"),
    ),
    "small": (
        Stage(3, 2, (16,), 16, True, "relu"),
        Stage(3, 2, (72, 88), 24, False, "relu"),
        Stage(5, 2, (96, 240, 240), 40, True, "hard_silu"),
        Stage(5, 1, (120, 144), 48, True, "hard_silu"),
        Stage(5, 2, (288, 576, 576), 96, True, "hard_silu"),
    ),
}
"""The stages before the last convolution. The block of the first has no expansion."""
LAST = {"large": 960, "small": 576}
TORCH = Style(se_activation="relu", se_gate="hard_sigmoid")
TENSORFLOW = Style(same=True, epsilon=1e-3, se_activation="relu", se_gate="hard_sigmoid")
MEMBERS = {
    "mobilenetv3_large_100": ("large", TORCH),
    "mobilenetv3_small_100": ("small", TORCH),
    "tf_mobilenetv3_large_100": ("large", TENSORFLOW),
    "tf_mobilenetv3_small_100": ("small", TENSORFLOW),
}
ALIASES = {
    "timm-mobilenetv3_large_100": "tf_mobilenetv3_large_100",
    "timm-mobilenetv3_small_100": "tf_mobilenetv3_small_100",
}
"""smp's names of timm's networks."""
WEIGHTS = {
    "mobilenetv3_large_100": HubWeights("timm/mobilenetv3_large_100.ra_in1k"),
    "mobilenetv3_small_100": HubWeights("timm/mobilenetv3_small_100.lamb_in1k"),
    "tf_mobilenetv3_large_100": HubWeights("timm/tf_mobilenetv3_large_100.in1k", mean=HALF[0], std=HALF[1]),
    "tf_mobilenetv3_small_100": HubWeights("timm/tf_mobilenetv3_small_100.in1k", mean=HALF[0], std=HALF[1]),
}


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    c5 is after the last convolution, c1 of the small network its stem; the others are linear.
    output_stride 16 or 8: the last stages keep their resolution and are dilated, as in timm (see stage_plan).
    """
    size, style = MEMBERS[name]
    images = keras.Input(input_shape, name="images")
    x = conv(images, STEM, 3, stride=2, same=style.same, name="encoder_conv_stem")
    x = style.norm_act(x, "hard_silu", "encoder_bn1")
    levels, level = {"c1": x}, 1
    plan = stage_plan([stage.stride for stage in STAGES[size]], output_stride, late_dilation=True)
    for index, (stage, (stride, first_dilation, dilation)) in enumerate(zip(STAGES[size], plan, strict=True)):
        for number, expanded in enumerate(stage.expanded):
            x = inverted_residual(
                x,
                stage.channels,
                stage.kernel,
                style,
                expanded=None if index == 0 else expanded,
                squeezed=round_channels(expanded / SQUEEZE) if stage.excited else 0,
                activation=stage.activation,
                stride=stride if number == 0 else 1,
                dilation=first_dilation if number == 0 else dilation,
                name=f"encoder_blocks_{index}_{number}",
            )
        level += stage.stride == 2
        levels[f"c{level}"] = x
    last = f"encoder_blocks_{len(plan)}_0"
    levels["c5"] = style.norm_act(conv(x, LAST[size], 1, name=f"{last}_conv"), "hard_silu", f"{last}_bn1")
    return keras.Model(images, levels, name="backbone")


for _name, _network in {**{name: name for name in MEMBERS}, **ALIASES}.items():
    register_backbone(
        _name,
        partial(build, _network),
        output_strides=(8, 16, 32),
        weights={"imagenet": WEIGHTS[_network]},
        first_layer="conv_stem",
        unused_keys=("conv_head", "classifier"),
        names={"timm": _network},
    )
