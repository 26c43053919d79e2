"""The registry of models: a decoder with its default backbone and output stride."""

from collections.abc import Callable
from typing import Any

from kseg.utils.registry import Registry

MODELS = Registry("model")


def register_model(
    *,
    backbone: str,
    output_stride: int,
    levels: tuple[str, ...] | Callable[..., tuple[str, ...]],
    align_corners: bool | Callable[..., bool] = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a decoder as a model named like its function.

    The function takes (features, *, num_classes, **options) and returns logits [B, h, w, num_classes] at its own stride.
    features holds the levels, and the model's input as "images" for decoders that end at the input's size.
    backbone, output_stride: the defaults of build_model; the output stride is the backbone's, not that of the logits.
    levels: the features that the decoder needs, or a function of its options that returns them. Of the backbone, only what the
    deepest of them needs is built; features holds all that it has up to there.
    align_corners: of the bilinear resize of the logits to the input's size; or a function of the options that returns it.
    An option named form or drop_path goes to the backbone, too: see kseg.models.backbones.registry.backbone_options.
    """
    return MODELS.register(
        backbone=backbone,
        output_stride=output_stride,
        levels=levels if callable(levels) else lambda **_: levels,
        align_corners=align_corners if callable(align_corners) else lambda **_: align_corners,
    )


def list_models() -> list[str]:
    """Returns the model names that build_model accepts, sorted."""
    return list(MODELS)
