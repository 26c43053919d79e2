"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808) in timm's layout.

`tu-convnext_tiny` is the name of `convnext_tiny` in segmentation_models.pytorch. Sizes atto to nano are timm's own in V1.
The weights of V1 are under Apache-2.0. Those of V2 are under CC BY-NC 4.0, which allows no commercial use.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import (
    block_rates,
    conv,
    dense,
    depthwise_conv,
    drop_path,
    gelu,
    layer_norm,
    normal,
    output_norms,
    patch_conv,
)
from kseg.models.layers import GlobalResponseNorm, LayerScale


@dataclass(frozen=True)
class Size:
    """Blocks in each of the four stages, and the channels of the first; each further stage has twice as many.

    convolutions: timm has 1x1 convolutions in a block, else linear layers. They compute the same from weights of other shapes.
    """

    blocks: tuple[int, int, int, int]
    channels: int
    convolutions: bool = False


SIZES = {
    "atto": Size((2, 2, 6, 2), 40, convolutions=True),
    "femto": Size((2, 2, 6, 2), 48, convolutions=True),
    "pico": Size((2, 2, 6, 2), 64, convolutions=True),
    "nano": Size((2, 2, 8, 2), 80, convolutions=True),
    "tiny": Size((3, 3, 9, 3), 96),
    "small": Size((3, 3, 27, 3), 96),
    "base": Size((3, 3, 27, 3), 128),
    "large": Size((3, 3, 27, 3), 192),
}
EXPANSION = 4
"""Channels inside a block, in multiples of its own."""
TAGS = {
    "convnext_atto": "d2_in1k",
    "convnext_femto": "d1_in1k",
    "convnext_pico": "d1_in1k",
    "convnext_nano": "in12k_ft_in1k",
    "convnext_tiny": "in12k_ft_in1k",
    "convnext_small": "in12k_ft_in1k",
    "convnext_base": "fb_in22k_ft_in1k",
    "convnext_large": "fb_in22k_ft_in1k",
    "convnextv2_atto": "fcmae_ft_in1k",
    "convnextv2_femto": "fcmae_ft_in1k",
    "convnextv2_pico": "fcmae_ft_in1k",
    "convnextv2_nano": "fcmae_ft_in22k_in1k",
    "convnextv2_tiny": "fcmae_ft_in22k_in1k",
    "convnextv2_base": "fcmae_ft_in22k_in1k",
    "convnextv2_large": "fcmae_ft_in22k_in1k",
}
"""timm's default weights, timm/<name>.<tag>. There are none of convnextv2_small."""
LICENCES = {"convnext": None, "convnextv2": "CC BY-NC 4.0: no commercial use"}
MEMBERS = {f"{version}_{size}": (version, size) for version in LICENCES for size in SIZES}


def build(
    name: str,
    *,
    output_stride: int,
    input_shape: tuple[int | None, int | None, int],
    form: str = "smp",
    drop_path: float = 0.0,
) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c2 to c5; sizes are rounded down.

    output_stride 16 or 8: the last one or two stages keep their resolution and are dilated, as in timm.
    form: "smp" for timm's network, "transformers" for that with a layer norm on each level.
    """
    version, size = MEMBERS[name]
    settings = SIZES[size]
    rates = iter(block_rates(drop_path, sum(settings.blocks)))
    images = keras.Input(input_shape, name="images")
    x = patch_conv(images, settings.channels, 4, initializer=normal(), name="encoder_stem_0")
    x = layer_norm(x, "encoder_stem_1")
    levels = {}
    for stage, blocks in enumerate(settings.blocks):
        name = f"encoder_stages_{stage}"
        dilation = max(1, 2 ** (stage + 2) // output_stride)
        if stage > 0:
            x = _downsample(x, dilation, f"{name}_downsample")
        for number in range(blocks):
            rate = next(rates)
            x = _block(x, version, settings.convolutions, dilation=dilation, rate=rate, name=f"{name}_blocks_{number}")
        levels[f"c{stage + 2}"] = x
    if form == "transformers":
        levels = output_norms(levels, epsilon=1e-6)
    return keras.Model(images, levels, name="backbone")


def _downsample(x: Any, dilation: int, name: str) -> Any:
    """Halves the resolution of x [B, h, w, C] and doubles the channels.

    dilation: of the stage that follows. Above 1, the resolution stays.
    """
    channels = 2 * x.shape[-1]
    x = layer_norm(x, f"{name}_0")
    if dilation == 1:
        return patch_conv(x, channels, 2, initializer=normal(), name=f"{name}_1")
    return conv(x, channels, 2, dilation=dilation // 2, use_bias=True, same=True, initializer=normal(), name=f"{name}_1")


def _block(x: Any, version: str, convolutions: bool, *, dilation: int, rate: float, name: str) -> Any:
    """A depthwise 7x7 convolution and an MLP on the channels, added to x. rate: of stochastic depth."""
    y = depthwise_conv(x, 7, dilation=dilation, use_bias=True, initializer=normal(), name=f"{name}_conv_dw")
    y = _linear(layer_norm(y, f"{name}_norm"), EXPANSION * x.shape[-1], convolutions, f"{name}_mlp_fc1")
    y = gelu(y, f"{name}_mlp_act")
    if version == "convnextv2":
        y = GlobalResponseNorm(name=f"{name}_mlp_grn")(y)
    y = _linear(y, x.shape[-1], convolutions, f"{name}_mlp_fc2")
    if version == "convnext":
        y = LayerScale(name=name)(y)
    return keras.layers.Add(name=f"{name}_add")([drop_path(y, rate, f"{name}_drop_path"), x])


def _linear(x: Any, channels: int, convolutions: bool, name: str) -> Any:
    if convolutions:
        return conv(x, channels, 1, use_bias=True, initializer=normal(), name=name)
    return dense(x, channels, name)


def register(name: str, size: Size | None = None) -> None:
    """Registers a member of the family. size: of a ConvNeXt (V1) that is not one of MEMBERS."""
    if size is not None:
        MEMBERS[name], SIZES[name] = ("convnext", name), size
    version, known = MEMBERS[name]
    has_form = version == "convnext" and not SIZES[known].convolutions
    register_backbone(
        name,
        partial(build, name),
        output_strides=(8, 16, 32),
        weights={"imagenet": HubWeights(f"timm/{name}.{TAGS[name]}", licence=LICENCES[version])} if name in TAGS else None,
        first_layer="stem.0",
        unused_keys=("head.norm", "head.fc"),
        names={"timm": name} if name not in SIZES else {},
        truncated=True,
        options=("form", "drop_path") if has_form else ("drop_path",),
    )


for _name in tuple(MEMBERS):
    register(_name)
