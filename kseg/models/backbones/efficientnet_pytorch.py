"""EfficientNet b0 to b7 (Tan and Le 2019, arXiv:1905.11946) as in the package efficientnet_pytorch and in smp.

They pad as TensorFlow's "SAME" does for an image of the size that the network was trained for, whatever the image's size is.
So the padding of a convolution with a stride belongs to the network, and differs between b0 and b1.
kseg.models.backbones.efficientnet has the two other forms.
"""

import math
from functools import partial

import keras

from kseg.models.backbones.efficientnet import EXPANSION, HALF, SCALING, SQUEEZE, STAGES, STEM
from kseg.models.backbones.inverted_residual import PYTORCH_BLOCK, Style, inverted_residual, round_channels
from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import conv
from kseg.models.layers import NORMALIZATIONS

STYLE = Style(epsilon=1e-3, momentum=0.99, names=(PYTORCH_BLOCK, PYTORCH_BLOCK))
DROP_PATH = 0.2
MEMBERS = {
    "efficientnet-b0": ("b0", 224, (2, 4, 8)),
    "efficientnet-b1": ("b1", 240, (4, 7, 15)),
    "efficientnet-b2": ("b2", 260, (4, 7, 15)),
    "efficientnet-b3": ("b3", 300, (4, 7, 17)),
    "efficientnet-b4": ("b4", 380, (5, 9, 21)),
    "efficientnet-b5": ("b5", 456, (7, 12, 26)),
    "efficientnet-b6": ("b6", 528, (8, 14, 30)),
    "efficientnet-b7": ("b7", 600, (10, 17, 37)),
}
"""The size, the side of the images that padding is computed for, and the blocks that end with c2, c3 and c4, as in smp.

b0's c4 is the first of the three blocks of its stage.
"""
REVISIONS = {
    "efficientnet-b0": {
        "imagenet": "1bbe7ecc1d5ea1d2058de1a2db063b8701aff314",
        "advprop": "29043c08140d9c6ee7de1468d55923f2b06bcec2",
    },
    "efficientnet-b1": {
        "imagenet": "5d637466a5215de300a8ccb13a39357df2df2bf4",
        "advprop": "2e518b8b0955bbab467f50525578dab6b6086afc",
    },
    "efficientnet-b2": {
        "imagenet": "a96d4f0295ffbae18ebba173bf7f3c0c8f21990e",
        "advprop": "be788c20dfb0bbe83b4c439f9cfe0dd937c0783e",
    },
    "efficientnet-b3": {
        "imagenet": "074c54a6c473e0d294690d49cedb6cf463e7127d",
        "advprop": "9ccc166d87bd9c08d6bed4477638c7f4bb3eec78",
    },
    "efficientnet-b4": {
        "imagenet": "05cd5dde5dab658f00c463f9b9aa0ced76784f40",
        "advprop": "f04caa809ea4eb08ee9e7fd555f5514ebe2a9ef5",
    },
    "efficientnet-b5": {
        "imagenet": "69f4d28460a4e421b7860bc26ee7d832e03e01ca",
        "advprop": "dabe78fc8ab7ce93ddc2bb156b01db227caede88",
    },
    "efficientnet-b6": {
        "imagenet": "8570752016f7c62ae149cffa058550fe44e21c8b",
        "advprop": "c2dbb4d1359151165ec7b96cfe54a9cac2142a31",
    },
    "efficientnet-b7": {
        "imagenet": "5a5dbe687d612ebc3dca248274fd1191111deda6",
        "advprop": "ce33edb4e80c0cde268f098ae2299e23f615577d",
    },
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 (the stem) to c5.

    An odd size is rounded up or down, as the padding says.
    output_stride 16 or 8: all blocks after c4, or after c3, keep their resolution and are dilated, as in smp.
    """
    size, side, taps = MEMBERS[name]
    width, depth = SCALING[size]
    images = keras.Input(input_shape, name="images")
    padding = _same_padding(side, 3)
    x = conv(images, round_channels(STEM * width), 3, stride=2, padding=padding, name="encoder__conv_stem")
    x = STYLE.norm_act(x, "silu", "encoder__bn0")
    levels = {"c1": x}
    side = math.ceil(side / 2)
    blocks = [
        (kernel, stride if number == 0 else 1, round_channels(channels * width), None if stage == 0 else EXPANSION)
        for stage, (repeats, kernel, stride, channels) in enumerate(STAGES)
        for number in range(math.ceil(repeats * depth))
    ]
    for index, (kernel, stride, channels, expansion) in enumerate(blocks):
        reached = 32 if index > taps[2] else 16 if index > taps[1] else 8
        dilation = max(1, reached // output_stride)
        strided = stride > 1 and dilation == 1
        x = inverted_residual(
            x,
            channels,
            kernel,
            STYLE,
            expanded=expansion and expansion * x.shape[-1],
            squeezed=x.shape[-1] // SQUEEZE,
            activation="silu",
            stride=stride if strided else 1,
            dilation=dilation,
            padding=_same_padding(side, kernel) if strided else None,
            rate=DROP_PATH * index / len(blocks),
            name=f"encoder__blocks_{index}",
        )
        side = math.ceil(side / stride)
        if index in taps:
            levels[f"c{2 + taps.index(index)}"] = x
    return keras.Model(images, {**levels, "c5": x}, name="backbone")


def _same_padding(side: int, kernel: int) -> tuple[int, int]:
    """Returns the pixels that TensorFlow's "SAME" adds before and after `side` pixels, for a stride of 2."""
    total = kernel - (2 if side % 2 == 0 else 1)
    return total // 2, total - total // 2


for _name, _revisions in REVISIONS.items():
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=(8, 16, 32),
        weights={
            tag: HubWeights(f"smp-hub/{_name}.{tag}", revision, mean=mean, std=std)
            for tag, revision in _revisions.items()
            for mean, std in [HALF if tag == "advprop" else NORMALIZATIONS["imagenet"]]
        },
        first_layer="_conv_stem",
        unused_keys=("_conv_head", "_bn1", "_fc"),
        names={"smp": _name},
    )
