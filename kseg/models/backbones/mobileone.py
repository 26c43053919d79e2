"""MobileOne (Vasu et al. 2023, arXiv:2206.04040) in smp's layout, in the form that is trained: sums of parallel branches.

The weights are under Apple's own licence, which timm calls `mobileone-license`: read it before you use them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import register_backbone, smp_weights
from kseg.models.blocks import batch_norm, conv, depthwise_conv, squeeze_excite


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family.

    widths: of the four stages, in multiples of CHANNELS. branches: equal convolutions whose results are added.
    excite: squeeze-and-excitation in the last blocks.
    """

    widths: tuple[float, float, float, float]
    branches: int = 1
    excite: bool = False


VARIANTS = {
    "mobileone_s0": Variant((0.75, 1.0, 1.0, 2.0), branches=4),
    "mobileone_s1": Variant((1.5, 1.5, 2.0, 2.5)),
    "mobileone_s2": Variant((1.5, 2.0, 2.5, 4.0)),
    "mobileone_s3": Variant((2.0, 2.5, 3.0, 4.0)),
    "mobileone_s4": Variant((3.0, 3.5, 3.5, 4.0), excite=True),
}
CHANNELS, BLOCKS, EXCITED = (64, 128, 256, 512), (2, 8, 10, 1), (0, 0, 5, 1)
"""Of each stage: channels at width 1, blocks, and how many of the last have squeeze-and-excitation in `mobileone_s4`."""
REDUCTION = 16
REVISIONS = {
    "mobileone_s0": "f52815cf0ad29278a9860c9cd5fabf19f904bedf",
    "mobileone_s1": "5707a98852b762cd8e0c43b5c8c729cd28496677",
    "mobileone_s2": "ddc3db8fa40d271902c7a8c95cee6691f617d551",
    "mobileone_s3": "da89b84a91b7400c366c358bfbf8dd0b2fa4dde2",
    "mobileone_s4": "16197c55d599076b6aae67a83d3b3f70c31b097c",
}
"""Commits of smp-hub/<name>.imagenet, as segmentation_models.pytorch 0.6.0 names them."""
LICENCE = "Apple's own licence, that of github.com/apple/ml-mobileone"


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c1 to c5; sizes are rounded up.

    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated from their first block on, as in smp.
    """
    variant = VARIANTS[name]
    images = keras.Input(input_shape, name="images")
    stem = min(CHANNELS[0], int(CHANNELS[0] * variant.widths[0]))
    x = _block(images, stem, 3, stride=2, name="encoder_stage0")
    levels = {"c1": x}
    for stage, blocks in enumerate(BLOCKS):
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        channels = int(CHANNELS[stage] * variant.widths[stage])
        for number in range(blocks):
            block = partial(_block, branches=variant.branches, excite=variant.excite and number >= blocks - EXCITED[stage])
            name = f"encoder_stage{stage + 1}"
            stride = 2 if number == 0 and dilation == 1 else 1
            x = block(x, None, 3, stride=stride, dilation=dilation, skip=number > 0, name=f"{name}_{2 * number}")
            x = block(x, channels, 1, skip=x.shape[-1] == channels, name=f"{name}_{2 * number + 1}")
        levels[f"c{stage + 2}"] = x
    return keras.Model(images, levels, name="backbone")


def _block(
    x: Any,
    filters: int | None,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    branches: int = 1,
    skip: bool = False,
    excite: bool = False,
    name: str,
) -> Any:
    """The sum of equal convolutions, one with a 1x1 kernel, and x, each with batch norm; then ReLU.

    filters: None for depthwise convolutions. skip: with x in the sum.
    """

    def branch(kernel: int, path: str) -> Any:
        if filters is None:
            y = depthwise_conv(x, kernel, stride=stride, dilation=dilation, fan="fan_in", name=f"{path}_conv")
        else:
            y = conv(x, filters, kernel, stride=stride, dilation=dilation, name=f"{path}_conv")
        return batch_norm(y, f"{path}_bn")

    terms = [branch(1, f"{name}_rbr_scale")] if size > 1 else []
    if skip:
        terms.append(batch_norm(x, f"{name}_rbr_skip"))
    terms += [branch(size, f"{name}_rbr_conv_{number}") for number in range(branches)]
    y = keras.layers.Add(name=f"{name}_add")(terms) if len(terms) > 1 else terms[0]
    if excite:
        y = squeeze_excite(y, y.shape[-1] // REDUCTION, activation="relu", reduce="reduce", expand="expand", name=f"{name}_se")
    return keras.layers.ReLU(name=f"{name}_activation")(y)


for _name, _revision in REVISIONS.items():
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=(8, 16, 32),
        weights=smp_weights(_name, {"imagenet": _revision}, LICENCE),
        first_layer="stage0.rbr_conv.0.conv",
        unused_keys=("linear",),
        names={"smp": _name},
    )
