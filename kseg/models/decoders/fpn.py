"""Feature pyramid network for segmentation."""

from typing import Any

import keras

from kseg.models.blocks import head, resize_layer
from kseg.models.layers import Conv2D, Resize
from kseg.models.registry import register_model
from kseg.utils.errors import KsegError


@register_model(backbone="resnet34", output_stride=32, levels=("c2", "c3", "c4", "c5"))
def fpn(
    features: dict[str, Any],
    *,
    num_classes: int,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    dropout: float = 0.2,
    merge: str = "add",
    interpolation: str = "nearest",
) -> Any:
    """FPN (Lin et al. 2017, arXiv:1612.03144) with the semantic branch of panoptic FPN (Kirillov et al. 2019,
    arXiv:1901.02446), laid out as smp's FPN.

    features: c2 [B, H/4, W/4, C2] to c5 [B, H/s, W/s, C5] with s the output stride. Each upsampling goes to the size of the next
    level, which is twice its own for the image sizes that smp accepts.
    pyramid_channels: of the pyramid. segmentation_channels: of the branches that are summed, a multiple of 32.
    merge: "add" the branches, or "cat" them. interpolation: "nearest" or "bilinear", of the pyramid.
    dropout: of whole channels of the sum. Returns logits [B, H/4, W/4, num_classes].
    """
    if merge not in ("add", "cat"):
        raise KsegError(f"merge={merge!r}: must be 'add' or 'cat'")
    levels = ("c5", "c4", "c3", "c2")
    pyramid = [_lateral(features["c5"], pyramid_channels, "decoder_p5")]
    for level in levels[1:]:
        name = f"decoder_p{level[1]}"
        above = resize_layer(interpolation, f"{name}_up")([pyramid[-1], features[level]])
        skip = _lateral(features[level], pyramid_channels, f"{name}_skip_conv")
        pyramid.append(keras.layers.Add(name=f"{name}_add")([above, skip]))
    branches = []
    for i, x in enumerate(pyramid):
        larger = levels[i + 1 :]
        for j in range(max(1, len(larger))):
            name = f"decoder_seg_blocks_{i}_block_{j}"
            x = _conv_group_norm_relu(x, segmentation_channels, f"{name}_block")
            if larger:
                x = Resize(align_corners=True, name=f"{name}_up")([x, features[larger[j]]])
        branches.append(x)
    merged = keras.layers.Add if merge == "add" else keras.layers.Concatenate
    x = merged(name="decoder_merge")(branches)
    return head(keras.layers.SpatialDropout2D(dropout, name="decoder_dropout")(x), num_classes)


def _lateral(x: Any, filters: int, name: str) -> Any:
    return Conv2D(filters, 1, kernel_initializer="he_uniform", name=name)(x)


def _conv_group_norm_relu(x: Any, filters: int, name: str) -> Any:
    """torch's Sequential(Conv2d 3x3 without bias, GroupNorm(32), ReLU)."""
    x = Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_uniform", name=f"{name}_0")(x)
    x = keras.layers.GroupNormalization(groups=32, epsilon=1e-5, name=f"{name}_1")(x)
    return keras.layers.ReLU(name=f"{name}_2")(x)
