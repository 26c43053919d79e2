"""U-Net."""

from typing import Any

import keras

from kseg.models.blocks import conv_bn_relu, head
from kseg.models.layers import ResizeNearest
from kseg.models.registry import register_model
from kseg.utils.errors import KsegError


@register_model(backbone="resnet34", output_stride=32, levels=("c1", "c2", "c3", "c4", "c5"))
def unet(
    features: dict[str, Any],
    *,
    num_classes: int,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    center: bool | None = None,
) -> Any:
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) on a backbone, laid out as smp's Unet.

    features: c1 [B, H/2, W/2, C1] to c5 [B, H/s, W/s, C5] with s the output stride, and images [B, H, W, 3] for its size. Sizes
    may be odd and rounded up or down. A VGG's c0 is not used, as in smp.
    decoder_channels: of the five blocks, from c5 to the image's size.
    center: two more convolutions on c5 before the first block. None decides as smp does: True for backbones with c0 (VGG).
    Returns logits [B, H, W, num_classes].
    """
    if len(decoder_channels) != 5:
        raise KsegError(f"unet has five blocks; decoder_channels must be five numbers, not {len(decoder_channels)}")
    x = features["c5"]
    if center if center is not None else "c0" in features:
        for i in range(2):
            x = _conv(x, x.shape[-1], f"decoder_center_{i}")
    for i, (filters, level) in enumerate(zip(decoder_channels, ("c4", "c3", "c2", "c1", "images"), strict=True)):
        name = f"decoder_blocks_{i}"
        x = ResizeNearest(name=f"{name}_up")([x, features[level]])
        if level != "images":
            x = keras.layers.Concatenate(name=f"{name}_concat")([x, features[level]])
        x = _conv(x, filters, f"{name}_conv1")
        x = _conv(x, filters, f"{name}_conv2")
    return head(x, num_classes, kernel_size=3)


def _conv(x: Any, filters: int, name: str) -> Any:
    return conv_bn_relu(x, filters, kernel_initializer="he_uniform", name=name)
