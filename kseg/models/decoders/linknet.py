"""LinkNet."""

from typing import Any

import keras

from kseg.models.blocks import bn_relu, conv_norm_relu, head, torch_uniform
from kseg.models.decoders.unet import needed_levels
from kseg.models.layers import ResizeNearest
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=32, levels=needed_levels)
def linknet(features: dict[str, Any], *, num_classes: int, prefinal_channels: int = 32, norm: str = "batch") -> Any:
    """LinkNet (Chaurasia and Culurciello 2017, arXiv:1707.03718) on a backbone, laid out as smp's Linknet.

    features: c1 [B, H/2, W/2, C1] to c5 [B, H/s, W/s, C5] with s the output stride, and images [B, H, W, 3] for its size. Each
    block doubles the size; where the next level is not twice as large, it resizes to that level's size. Where the backbone has
    no c1, that block has no skip.
    prefinal_channels: of the last block. norm: "batch", or "none" for biases instead of batch norm.
    Returns logits [B, H, W, num_classes].
    """
    x = features["c5"]
    for i, level in enumerate(("c4", "c3", "c2", "c1", "images")):
        name = f"decoder_blocks_{i}"
        skip = None if level == "images" else features.get(level)
        filters = prefinal_channels if level == "images" else x.shape[-1] if skip is None else skip.shape[-1]
        reference, divisor = (features["images"], 1 if level == "images" else 2) if skip is None else (skip, 1)
        x = _block(x, filters, reference, divisor, norm, f"{name}_block")
        if skip is not None:
            x = keras.layers.Add(name=f"{name}_add")([x, skip])
    return head(x, num_classes)


def _block(x: Any, filters: int, reference: Any, divisor: int, norm: str, name: str) -> Any:
    """Narrows x [B, h, w, C] to C/4 channels, doubles its size, and widens it to `filters`.

    The result has the size of `reference`, divided by `divisor`.
    """
    narrow = x.shape[-1] // 4
    x = conv_norm_relu(x, narrow, 1, norm=norm, name=f"{name}_0")
    uniform = torch_uniform(16 * narrow)
    x = keras.layers.Conv2DTranspose(
        narrow, 4, strides=2, padding="same", kernel_initializer=uniform, bias_initializer=uniform, name=f"{name}_1_0"
    )(x)
    x = keras.layers.ReLU(name=f"{name}_1_2")(x) if norm == "none" else bn_relu(x, f"{name}_1_1", f"{name}_1_2")
    x = ResizeNearest(divisor, name=f"{name}_fit")([x, reference])
    return conv_norm_relu(x, filters, 1, norm=norm, name=f"{name}_2")
