"""SegFormer's decoder."""

from typing import Any

import keras

from kseg.models.blocks import conv_norm_relu, head
from kseg.models.layers import Resize
from kseg.models.registry import register_model
from kseg.utils.errors import KsegError


@register_model(
    backbone="resnet34", output_stride=32, levels=("c2", "c3", "c4", "c5"), align_corners=lambda form="smp", **_: form == "smp"
)
def segformer(
    features: dict[str, Any],
    *,
    num_classes: int,
    decoder_channels: int = 256,
    dropout: float | None = None,
    form: str = "smp",
    drop_path: float | None = None,  # the backbone reads it
) -> Any:
    """SegFormer's decoder (Xie et al. 2021, arXiv:2105.15203) on any backbone, laid out as smp's Segformer.

    A linear layer on each level, all resized to stride 4, and one more to fuse them.

    features: c2 [B, H/4, W/4, C2] to c5; c1, too, where the backbone has it; and images [B, H, W, 3] for its size.
    decoder_channels: of each level and of the fusion.
    form: "smp", or "transformers" for what its SegformerForSemanticSegmentation computes: the levels are resized to the size of
    c2, the logits without aligned corners, and the backbone has other constants.
    dropout: before the last layer; None for the form's own, 0 in smp's and 0.1 in that of transformers.
    drop_path: the rate of stochastic depth in the backbone's last block; None for the backbone's own.
    Returns logits [B, H // 4, W // 4, num_classes]; in the form of transformers they have the size of c2.
    """
    dropout = {"smp": 0.0, "transformers": 0.1}[form] if dropout is None else dropout
    if not 0 <= dropout < 1:
        raise KsegError(f"dropout={dropout}: must be 0 or more, and less than 1")
    levels = [level for level in ("c5", "c4", "c3", "c2", "c1") if level in features]
    reference, divisor = (features["images"], 4) if form == "smp" else (features["c2"], 1)
    resized = []
    for i, level in enumerate(levels):
        name = f"decoder_mlp_stage_{i}"
        x = keras.layers.Dense(decoder_channels, name=f"{name}_linear")(features[level])
        resized.append(Resize(align_corners=False, divisor=divisor, name=f"{name}_up")([x, reference]))
    x = keras.layers.Concatenate(name="decoder_concat")(resized)
    x = conv_norm_relu(x, decoder_channels, 1, name="decoder_fuse_stage")
    x = keras.layers.Dropout(dropout, name="decoder_dropout")(x) if dropout else x
    return head(x, num_classes)
