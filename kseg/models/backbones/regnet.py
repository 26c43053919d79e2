"""RegNetX and RegNetY (Radosavovic et al. 2020, arXiv:2003.13678) in timm's layout. RegNetY has squeeze-and-excitation.

`timm-regnetx_002` is the name of `regnetx_002` in segmentation_models.pytorch. The number is the multiplications of an image of
224x224, in units of 100 million.
"""

import math
from collections import Counter
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import batch_norm, bn_relu, conv, squeeze_excite

STEM, SQUEEZE = 32, 4
MEMBERS = {
    "regnetx_002": (13, 24, 36.44, 2.49, 8),
    "regnetx_004": (22, 24, 24.48, 2.54, 16),
    "regnetx_006": (16, 48, 36.97, 2.24, 24),
    "regnetx_008": (16, 56, 35.73, 2.28, 16),
    "regnetx_016": (18, 80, 34.01, 2.25, 24),
    "regnetx_032": (25, 88, 26.31, 2.25, 48),
    "regnetx_040": (23, 96, 38.65, 2.43, 40),
    "regnetx_064": (17, 184, 60.83, 2.07, 56),
    "regnetx_080": (23, 80, 49.56, 2.88, 120),
    "regnetx_120": (19, 168, 73.36, 2.37, 112),
    "regnetx_160": (22, 216, 55.59, 2.1, 128),
    "regnetx_320": (23, 320, 69.86, 2.0, 168),
    "regnety_002": (13, 24, 36.44, 2.49, 8),
    "regnety_004": (16, 48, 27.89, 2.09, 8),
    "regnety_006": (15, 48, 32.54, 2.32, 16),
    "regnety_008": (14, 56, 38.84, 2.4, 16),
    "regnety_016": (27, 48, 20.71, 2.65, 24),
    "regnety_032": (21, 80, 42.63, 2.66, 24),
    "regnety_040": (22, 96, 31.41, 2.24, 64),
    "regnety_064": (25, 112, 33.22, 2.27, 72),
    "regnety_080": (17, 192, 76.82, 2.19, 56),
    "regnety_120": (19, 168, 73.36, 2.37, 112),
    "regnety_160": (18, 200, 106.23, 2.48, 112),
    "regnety_320": (20, 232, 115.89, 2.53, 232),
}
"""Blocks, first width, slope and factor of the widths (see `stages`), and channels of a group."""
TAGS = {
    "pycls_in1k": (
        "regnetx_002", "regnetx_004", "regnetx_006", "regnetx_040", "regnetx_064", "regnetx_120", "regnety_002", "regnety_006",
        "regnety_008",
    ),
    "tv2_in1k": (
        "regnetx_008", "regnetx_016", "regnetx_032", "regnetx_080", "regnetx_160", "regnetx_320", "regnety_004", "regnety_016",
        "regnety_320",
    ),
    "ra_in1k": ("regnety_032",),
    "ra3_in1k": ("regnety_040", "regnety_064", "regnety_080"),
    "sw_in12k_ft_in1k": ("regnety_120", "regnety_160"),
}  # fmt: skip
"""timm's default weights, timm/<name>.<tag>: under MIT (pycls), BSD-3-Clause (tv2, torchvision's) and Apache-2.0 (timm's)."""


def stages(name: str) -> list[tuple[int, int, int]]:
    """Returns (blocks, channels, channels of a group) of each stage: blocks of the same width make a stage.

    Widths grow linearly by block. Each is rounded to the first width times a power of the factor, and then to a multiple of 8.
    The group's size is reduced to a stage's width where it is larger, and the width is rounded to a multiple of it.
    """
    blocks, first, slope, factor, group = MEMBERS[name]
    powers = (round(math.log((first + slope * block) / first) / math.log(factor)) for block in range(blocks))
    widths = Counter(8 * round(first * factor**power / 8) for power in powers)
    found = []
    for width, count in sorted(widths.items()):
        size = min(group, width)
        found.append((count, size * round(width / size), size))
    return found


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated. Their first block has the dilation of
    the stage before, as in timm.
    """
    images = keras.Input(input_shape, name="images")
    x = _conv_bn_relu(images, STEM, 3, stride=2, name="encoder_stem")
    levels = {"c1": x}
    for stage, (blocks, channels, group) in enumerate(stages(name), start=1):
        dilation = max(1, 2 ** (stage + 1) // output_stride)
        for number in range(blocks):
            first = number == 0
            x = _block(
                x,
                channels,
                channels // group,
                stride=2 if first and dilation == 1 else 1,
                dilation=max(1, dilation // 2) if first else dilation,
                excite=name.startswith("regnety"),
                shortcut=first,
                name=f"encoder_s{stage}_b{number + 1}",
            )
        levels[f"c{stage + 1}"] = x
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, channels: int, groups: int, *, stride: int, dilation: int, excite: bool, shortcut: bool, name: str) -> Any:
    """Residual block of three convolutions of the same width.

    excite: with squeeze-and-excitation, to a quarter of x's channels. shortcut: with a convolution.
    """
    y = _conv_bn_relu(x, channels, 1, name=f"{name}_conv1")
    y = _conv_bn_relu(y, channels, 3, stride=stride, dilation=dilation, groups=groups, name=f"{name}_conv2")
    if excite:
        squeezed = round(x.shape[-1] / SQUEEZE)
        y = squeeze_excite(y, squeezed, activation="relu", reduce="fc1", expand="fc2", name=f"{name}_se")
    y = batch_norm(conv(y, channels, 1, name=f"{name}_conv3_conv"), f"{name}_conv3_bn")
    if shortcut:
        x = conv(x, channels, 1, stride=stride, name=f"{name}_downsample_conv")
        x = batch_norm(x, f"{name}_downsample_bn")
    return keras.layers.ReLU(name=f"{name}_act3")(keras.layers.Add(name=f"{name}_add")([y, x]))


def _conv_bn_relu(x: Any, filters: int, size: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, name: str) -> Any:
    x = conv(x, filters, size, stride=stride, dilation=dilation, groups=groups, name=f"{name}_conv")
    return bn_relu(x, f"{name}_bn", f"{name}_act")


for _tag, _names in TAGS.items():
    for _name in _names:
        for _alias in (_name, f"timm-{_name}"):
            register_backbone(
                _alias,
                partial(build, _name),
                output_strides=(8, 16, 32),
                weights={"imagenet": HubWeights(f"timm/{_name}.{_tag}")},
                first_layer="stem.conv",
                unused_keys=("head.fc",),
                names={"timm": _name},
                truncated=True,
            )
