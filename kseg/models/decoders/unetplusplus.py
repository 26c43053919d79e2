"""U-Net++."""

from functools import partial
from typing import Any

from kseg.models.blocks import conv_norm_relu, head, unet_block
from kseg.models.decoders.unet import LEVELS, check_channels, needed_levels
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=32, levels=needed_levels)
def unetplusplus(
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
    """U-Net++ (Zhou et al. 2018, arXiv:1807.10165) on a backbone, laid out as smp's UnetPlusPlus.

    Between the encoder's level and the decoder's node of the same size lie further nodes. Node (d, l) is the d-th from the
    right in the row of the l-th size: it upsamples the node before it, and reads all nodes of its row that are further left.

    features: c1 [B, H/2, W/2, C1] to c<depth>, and images [B, H, W, 3] for its size.
    Other arguments: as in kseg.models.decoders.unet. Returns logits [B, H, W, num_classes].
    """
    check_channels("unetplusplus", depth, decoder_channels)
    block = partial(unet_block, attention=attention, interpolation=interpolation, norm=norm)
    encoder: list[Any] = [features.get(level) for level in LEVELS[:depth][::-1]]  # from the smallest
    if center if center is not None else "c0" in features:
        for i in range(2):
            encoder[0] = conv_norm_relu(encoder[0], encoder[0].shape[-1], norm=norm, name=f"decoder_center_{i}")
    nodes: dict[tuple[int, int], Any] = {}
    last = depth - 1
    for row in range(last):
        skip = encoder[row + 1]
        if skip is None:  # without c1 its row has the decoder's node alone
            name = f"decoder_blocks_x_0_{row}"
            below = encoder[row] if row == 0 else nodes[0, row - 1]
            nodes[0, row] = block(below, decoder_channels[row], features["images"], divisor=2, skips=[], name=name)
            continue
        for column in range(row, -1, -1):
            below = encoder[row] if column == row else nodes[column, row - 1]
            left = [nodes[other, row] for other in range(column + 1, row + 1)]
            name = f"decoder_blocks_x_{column}_{row}"
            filters = decoder_channels[row] if column == 0 else skip.shape[-1]
            nodes[column, row] = block(below, filters, skip, skips=[*left, skip], name=name)
    x = nodes[0, last - 1]
    x = block(x, decoder_channels[-1], features["images"], skips=None, name=f"decoder_blocks_x_0_{last}")
    return head(x, num_classes, kernel_size=3)
