"""Mix Transformer, SegFormer's encoder (Xie et al. 2021, arXiv:2105.15203), in the layout of NVIDIA's release and of smp.

The pretrained weights are NVIDIA's, under a licence that allows research and evaluation only, no commercial use. It does not
cover this code, which was written from the paper.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import register_backbone, smp_weights
from kseg.models.blocks import block_rates, conv, dense, depthwise_conv, drop_path, gelu, layer_norm, patch_conv
from kseg.models.layers import DotProductAttention


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family, by stage: blocks and channels."""

    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int] = (64, 128, 320, 512)


VARIANTS = {
    "mit_b0": Variant((2, 2, 2, 2), (32, 64, 160, 256)),
    "mit_b1": Variant((2, 2, 2, 2)),
    "mit_b2": Variant((3, 4, 6, 3)),
    "mit_b3": Variant((3, 4, 18, 3)),
    "mit_b4": Variant((3, 8, 27, 3)),
    "mit_b5": Variant((3, 6, 40, 3)),
}
HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)
"""By stage: heads of attention, and the factor by which each side of the map of keys and values is smaller."""
EXPANSION, DROP_PATH = 4, 0.1
"""Channels inside a block in multiples of its own, and the drop rate of the last block."""
EPSILONS = {"smp": 1e-6, "transformers": 1e-5}
"""Of the layer norms in and behind blocks, by form. Those of patches, and of keys and values, have 1e-5 in both."""
REVISIONS = {
    "mit_b0": "9ce53d104d92d75aabb00aae70677aaab67e7c84",
    "mit_b1": "a04bf4f13a549bce677cf79b04852e7510782817",
    "mit_b2": "868ab6f13871dcf8c3d9f90ee4519403475b65ef",
    "mit_b3": "32558d12a65f1daa0ebcf4f4053c4285e2c1cbda",
    "mit_b4": "3a3454e900a4b4f11dd60eeb59101a9a1a36b017",
    "mit_b5": "ced04d96c586b6297fd59a7a1e244fc78fdb6531",
}
"""Commits of smp-hub/<name>.imagenet, as segmentation_models.pytorch 0.6.0 names them."""
LICENCE = "the NVIDIA Source Code License for SegFormer: research and evaluation only, no commercial use"


def build(
    name: str,
    *,
    output_stride: int,
    input_shape: tuple[int | None, int | None, int],
    form: str = "smp",
    drop_path: float = DROP_PATH,
) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c2 to c5; sizes are rounded up.

    output_stride: 32. form: "smp", or "transformers", which differs in the constants of layer norms (EPSILONS).
    """
    variant, epsilon = VARIANTS[name], EPSILONS[form]
    rates = iter(block_rates(drop_path, sum(variant.blocks)))
    images = keras.Input(input_shape, name="images")
    x, levels = images, {}
    for stage, (blocks, channels) in enumerate(zip(variant.blocks, variant.channels, strict=True)):
        size, stride = (3, 2) if stage else (7, 4)
        embed = f"encoder_patch_embed{stage + 1}"
        x = conv(x, channels, size, stride=stride, use_bias=True, name=f"{embed}_proj")
        x = layer_norm(x, f"{embed}_norm", epsilon=1e-5)
        for number in range(blocks):
            name = f"encoder_block{stage + 1}_{number}"
            x = _block(x, HEADS[stage], REDUCTIONS[stage], epsilon, rate=next(rates), name=name)
        x = levels[f"c{stage + 2}"] = layer_norm(x, f"encoder_norm{stage + 1}", epsilon=epsilon)
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, heads: int, reduction: int, epsilon: float, *, rate: float, name: str) -> Any:
    """Attention, then a mix of channels and neighbours (Mix-FFN), each added to x. rate: of stochastic depth."""
    y = _attention(layer_norm(x, f"{name}_norm1", epsilon=epsilon), heads, reduction, f"{name}_attn")
    x = keras.layers.Add(name=f"{name}_add1")([x, drop_path(y, rate, f"{name}_drop_path1")])
    y = dense(layer_norm(x, f"{name}_norm2", epsilon=epsilon), EXPANSION * x.shape[-1], f"{name}_mlp_fc1")
    y = gelu(depthwise_conv(y, 3, use_bias=True, name=f"{name}_mlp_dwconv_dwconv"), f"{name}_mlp_act")
    y = dense(y, x.shape[-1], f"{name}_mlp_fc2")
    return keras.layers.Add(name=f"{name}_add2")([x, drop_path(y, rate, f"{name}_drop_path2")])


def _attention(x: Any, heads: int, reduction: int, name: str) -> Any:
    """Attention of each place to all places of the map, which a convolution makes smaller by `reduction` first."""
    channels, smaller = x.shape[-1], x
    if reduction > 1:
        smaller = layer_norm(patch_conv(x, channels, reduction, name=f"{name}_sr"), f"{name}_norm", epsilon=1e-5)
    q, kv = dense(x, channels, f"{name}_q"), dense(smaller, 2 * channels, f"{name}_kv")
    return dense(DotProductAttention(heads, name=f"{name}_product")([q, kv]), channels, f"{name}_proj")


def register(name: str, variant: Variant | None = None) -> None:
    """Registers a member of the family. variant: its settings, if it is not one of VARIANTS."""
    if variant is not None:
        VARIANTS[name] = variant
    register_backbone(
        name,
        partial(build, name),
        output_strides=(32,),
        weights=smp_weights(name, {"imagenet": REVISIONS[name]}, LICENCE) if name in REVISIONS else None,
        first_layer="patch_embed1.proj",
        unused_keys=("head",),
        names={"smp": name} if name in REVISIONS else {},
        options=("form", "drop_path"),
    )


for _name in tuple(VARIANTS):
    register(_name)
