"""The registry of models."""

from collections.abc import Callable
from typing import Any

from kseg.utils.registry import Registry

MODELS = Registry("model")


def register_model(
    *, backbone: str, output_stride: int, levels: tuple[str, ...], align_corners: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a decoder under its function's name.

    The function takes (features, *, num_classes, **options) and returns logits at the decoder's own stride. Beside the levels,
    features["images"] is the model's input, for decoders that end at its size.
    backbone, output_stride: what build_model uses where the caller says nothing. levels: the features that the decoder reads.
    align_corners: how its logits are resized to the input's size.
    """
    return MODELS.register(backbone=backbone, output_stride=output_stride, levels=levels, align_corners=align_corners)


def list_models() -> list[str]:
    """Returns the names that build_model takes, sorted."""
    return list(MODELS)
