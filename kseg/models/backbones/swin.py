"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030) in the layouts of timm and of transformers.

`swin_tiny` is timm's swin_tiny_patch4_window7_224, which segmentation_models.pytorch calls tu-swin_tiny_patch4_window7_224.
The weights are under the MIT licence.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import HubWeights, register_backbone
from kseg.models.blocks import block_rates, dense, drop_path, gelu, layer_norm, normal, output_norms, patch_conv
from kseg.models.layers import Dense
from kseg.models.windows import FromWindows, SpaceToDepth, ToWindows, WindowAttention


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family: blocks and heads by stage, channels of the first, and the side of a window.

    Each further stage has twice as many channels.
    """

    blocks: tuple[int, int, int, int]
    channels: int
    heads: tuple[int, int, int, int]
    window: int = 7


VARIANTS = {
    "swin_tiny": Variant((2, 2, 6, 2), 96, (3, 6, 12, 24)),
    "swin_small": Variant((2, 2, 18, 2), 96, (3, 6, 12, 24)),
    "swin_base": Variant((2, 2, 18, 2), 128, (4, 8, 16, 32), 12),
    "swin_large": Variant((2, 2, 18, 2), 192, (6, 12, 24, 48), 12),
}
WEIGHTS = {
    "swin_tiny": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_small": "swin_small_patch4_window7_224.ms_in22k_ft_in1k",
    "swin_base": "swin_base_patch4_window12_384.ms_in22k_ft_in1k",
    "swin_large": "swin_large_patch4_window12_384.ms_in22k_ft_in1k",
}
"""timm's names and default weights, timm/<name>.<tag>."""
EXPANSION, DROP_PATH = 4, 0.1
"""Channels inside a block in multiples of its own, and the drop rate of the last block."""
EPSILON = 1e-5


def build(
    name: str,
    *,
    output_stride: int,
    input_shape: tuple[int | None, int | None, int],
    form: str = "smp",
    drop_path: float = DROP_PATH,
) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Features c2 to c5; sizes are rounded up.

    output_stride: 32. form: "smp" for timm's network: it rolls a map before it pads it to whole windows. "transformers" for that
    of transformers, which pads first and ends with a layer norm on each level. They differ where windows do not fit the image.
    """
    variant = VARIANTS[name]
    rates = iter(block_rates(drop_path, sum(variant.blocks)))
    images = keras.Input(input_shape, name="images")
    x = ToWindows(4, name="encoder_patch_embed_pad")(images)
    x = patch_conv(x, variant.channels, 4, initializer=normal(), name="encoder_patch_embed_proj")
    x = layer_norm(x, "encoder_patch_embed_norm", epsilon=EPSILON)
    levels = {}
    for stage, (blocks, heads) in enumerate(zip(variant.blocks, variant.heads, strict=True)):
        name = f"encoder_layers_{stage}"
        if stage:
            x = layer_norm(SpaceToDepth(name=f"{name}_downsample_merge")(x), f"{name}_downsample_norm", epsilon=EPSILON)
            x = Dense(x.shape[-1] // 2, use_bias=False, kernel_initializer=normal(), name=f"{name}_downsample_reduction")(x)
        for number in range(blocks):
            shift = variant.window // 2 if number % 2 else 0
            windows = {"window": variant.window, "shift": shift, "roll_first": form == "smp"}
            x = _block(x, heads, windows, rate=next(rates), name=f"{name}_blocks_{number}")
        levels[f"c{stage + 2}"] = x
    if form == "transformers":
        levels = output_norms(levels, epsilon=EPSILON)
    return keras.Model(images, levels, name="backbone")


def _block(x: Any, heads: int, windows: dict[str, Any], *, rate: float, name: str) -> Any:
    """Attention within windows, then an MLP on the channels, each added to x. rate: of stochastic depth."""
    channels = x.shape[-1]
    y = ToWindows(**windows, name=f"{name}_windows")(layer_norm(x, f"{name}_norm1", epsilon=EPSILON))
    y = dense(y, 3 * channels, f"{name}_attn_qkv")
    y = WindowAttention(heads, windows["window"], windows["shift"], name=f"{name}_attn")(y)
    y = FromWindows(**windows, name=f"{name}_map")([y, x])
    y = dense(y, channels, f"{name}_attn_proj")
    x = keras.layers.Add(name=f"{name}_add1")([x, drop_path(y, rate, f"{name}_drop_path1")])
    y = dense(layer_norm(x, f"{name}_norm2", epsilon=EPSILON), EXPANSION * channels, f"{name}_mlp_fc1")
    y = dense(gelu(y, f"{name}_mlp_act"), channels, f"{name}_mlp_fc2")
    return keras.layers.Add(name=f"{name}_add2")([x, drop_path(y, rate, f"{name}_drop_path2")])


def register(name: str, variant: Variant | None = None) -> None:
    """Registers a member of the family. variant: its settings, if it is not one of VARIANTS."""
    if variant is not None:
        VARIANTS[name] = variant
    weights = WEIGHTS.get(name)
    register_backbone(
        name,
        partial(build, name),
        output_strides=(32,),
        weights={"imagenet": HubWeights(f"timm/{weights}")} if weights else None,
        first_layer="patch_embed.proj",
        unused_keys=("norm", "head.fc"),
        names={"timm": weights.partition(".")[0]} if weights else {},
        truncated=True,
        options=("form", "drop_path"),
    )


for _name in tuple(VARIANTS):
    register(_name)
