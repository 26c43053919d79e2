"""U-Net."""

from collections.abc import Sequence
from typing import Any

from kseg.models.blocks import conv_norm_relu, head, unet_block
from kseg.models.registry import register_model
from kseg.utils.errors import KsegError

LEVELS = ("c1", "c2", "c3", "c4", "c5")


def needed_levels(depth: int = 5, **_: Any) -> tuple[str, ...]:
    """Returns the levels that U-Nets need: c1 is read where the backbone has it."""
    return LEVELS[1:depth]


@register_model(backbone="resnet34", output_stride=32, levels=needed_levels)
def unet(
    features: dict[str, Any],
    *,
    num_classes: int,
    depth: int = 5,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    attention: str | None = None,
    interpolation: str = "nearest",
    norm: str = "batch",
    center: bool | None = None,
) -> Any:
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) on a backbone, laid out as smp's Unet.

    features: c1 [B, H/2, W/2, C1] to c<depth> [B, H/s, W/s, C], and images [B, H, W, 3] for its size. Sizes may be odd and
    rounded up or down. A VGG's c0 is not used, as in smp. Where the backbone has no c1 (MiT, ConvNeXt), that block has no skip.
    depth: levels that are read, 3 to 5. decoder_channels: of the blocks, one a level, from the smallest to the image's size.
    attention: None, or "scse" for squeeze and excitation in space and channel (Roy et al. 2018, arXiv:1808.08127).
    interpolation: "nearest" or "bilinear", of each block's upsampling. norm: "batch", or "none" for biases instead.
    center: two more convolutions before the first block. None decides as smp does: True for backbones with c0 (VGG).
    Returns logits [B, H, W, num_classes].
    """
    check_channels("unet", depth, decoder_channels)
    x = features[f"c{depth}"]
    if center if center is not None else "c0" in features:
        for i in range(2):
            x = conv_norm_relu(x, x.shape[-1], norm=norm, name=f"decoder_center_{i}")
    for i, (filters, level) in enumerate(zip(decoder_channels, (*LEVELS[: depth - 1][::-1], "images"), strict=True)):
        present = level in features
        x = unet_block(
            x,
            filters,
            features[level if present else "images"],
            divisor=1 if present else 2,
            skips=None if level == "images" else [features[level]] if present else [],
            attention=attention,
            interpolation=interpolation,
            norm=norm,
            name=f"decoder_blocks_{i}",
        )
    return head(x, num_classes, kernel_size=3)


def check_channels(model: str, depth: int, channels: Sequence[int]) -> None:
    """Raises KsegError unless there is a number of channels for each block."""
    if not 3 <= depth <= 5:
        raise KsegError(f"{model}: depth must be 3, 4 or 5, not {depth}")
    if len(channels) != depth:
        raise KsegError(
            f"{model} has a block for each of its {depth} levels; decoder_channels must be {depth} numbers, not {len(channels)}"
        )
