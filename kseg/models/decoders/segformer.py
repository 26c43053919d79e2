"""SegFormer's decoder."""

from typing import Any

import keras

from kseg.models.blocks import conv_norm_relu, head
from kseg.models.layers import Resize
from kseg.models.registry import register_model


@register_model(backbone="resnet34", output_stride=32, levels=("c2", "c3", "c4", "c5"))
def segformer(features: dict[str, Any], *, num_classes: int, decoder_channels: int = 256) -> Any:
    """SegFormer's decoder (Xie et al. 2021, arXiv:2105.15203) on any backbone, laid out as smp's Segformer.

    A linear layer on each level, all resized to stride 4, and one more to fuse them.

    features: c2 [B, H/4, W/4, C2] to c5; c1, too, where the backbone has it; and images [B, H, W, 3] for its size.
    decoder_channels: of each level and of the fusion. Returns logits [B, H // 4, W // 4, num_classes].
    """
    levels = [level for level in ("c5", "c4", "c3", "c2", "c1") if level in features]
    resized = []
    for i, level in enumerate(levels):
        name = f"decoder_mlp_stage_{i}"
        x = keras.layers.Dense(decoder_channels, name=f"{name}_linear")(features[level])
        resized.append(Resize(align_corners=False, divisor=4, name=f"{name}_up")([x, features["images"]]))
    x = keras.layers.Concatenate(name="decoder_concat")(resized)
    return head(conv_norm_relu(x, decoder_channels, 1, name="decoder_fuse_stage"), num_classes)
