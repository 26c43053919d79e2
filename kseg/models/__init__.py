"""Models: `build_model` puts normalisation, a backbone, a decoder and the resize to the input's size together."""

import os
from collections.abc import Callable
from typing import Any

import keras

from kseg.errors import KsegError
from kseg.models.backbones import build_backbone, list_backbones
from kseg.models.channels import channel_statistics
from kseg.models.layers import NORMALIZATIONS, Normalize, Resize, fcn_head
from kseg.models.pretrained import find_weights
from kseg.registry import Registry, import_modules

__all__ = ["build_backbone", "build_model", "list_backbones", "list_models", "register_model"]

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


def build_model(
    name: str,
    *,
    num_classes: int,
    backbone: str | None = None,
    backbone_weights: str | os.PathLike | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    output_stride: int | None = None,
    normalization: str | tuple[tuple[float, ...], tuple[float, ...]] | None = "auto",
    auxiliary: bool = False,
    **options: Any,
) -> keras.Model:
    """Builds a segmentation model.

    name: one of list_models(). num_classes: at least 1. backbone, output_stride: default to the model's own.
    backbone_weights: None, a tag the backbone's family knows ("imagenet"), hf://owner/repo[@revision], or a file.
    normalization: "auto", the mean and std that backbone_weights need (ImageNet's, mostly); "imagenet"; a (mean, std) pair for
    channels in 0..1; or None if the caller's images are normalised already. For images that are not RGB, a mean and std of RGB
    are averaged (one channel) or repeated (R, G, B, R, ...).
    auxiliary: torchvision's auxiliary head (layers aux_classifier_...) on c4, too, for training: see kseg.models.supervision.
    options: the decoder's own, e.g. dilation_rates.

    Returns a keras.Model from [B, H, W, 3] RGB (or what input_shape says), uint8 or float in 0..255, to float32 logits
    [B, H, W, num_classes] (no softmax), for any H and W of at least 32; with an auxiliary head, to {"logits": ..., "auxiliary":
    ...}, each of that shape. Raises KsegError for an unknown name, or a combination that cannot work.
    """
    entry = MODELS[name]
    backbone = backbone or entry.info["backbone"]
    if num_classes < 1:
        raise KsegError(f"num_classes must be at least 1, not {num_classes}")
    if any(side is not None and side < 32 for side in input_shape[:2]):
        raise KsegError(f"input_shape {input_shape} is too small: height and width must be at least 32")
    weights = None if backbone_weights is None else find_weights(backbone, backbone_weights)
    encoder = build_backbone(
        backbone,
        output_stride=output_stride or entry.info["output_stride"],
        weights=weights,
        input_shape=input_shape,
    )
    images = keras.Input(input_shape, name="images", dtype="float32")
    x = images
    if normalization is not None:
        mean, std = _mean_and_std(normalization, weights)
        x = Normalize(*channel_statistics(mean, std, input_shape[-1]), name="normalize")(images)
    features = encoder(x)
    missing = [level for level in entry.info["levels"] if level not in features]
    if missing:
        raise KsegError(f"model {name} needs the features {', '.join(missing)}, which backbone {backbone} does not have")
    if auxiliary and "c4" not in features:
        raise KsegError(f"an auxiliary head needs the features c4, which backbone {backbone} does not have; train without one")
    logits = entry.build({**features, "images": images}, num_classes=num_classes, **options)
    heads = {"logits": logits}
    if auxiliary:
        heads["auxiliary"] = fcn_head(features["c4"], num_classes, name="aux_classifier")
    resized = {head: Resize(entry.info["align_corners"], dtype="float32", name=head)([x, images]) for head, x in heads.items()}
    return keras.Model(images, resized if auxiliary else resized["logits"], name=name)


def list_models() -> list[str]:
    """Returns the names that build_model takes, sorted."""
    return list(MODELS)


def _mean_and_std(normalization, weights):
    if normalization == "auto":
        return (weights.mean, weights.std) if weights else NORMALIZATIONS["imagenet"]
    if isinstance(normalization, str):
        if normalization not in NORMALIZATIONS:
            known = ", ".join(["auto", *NORMALIZATIONS])
            raise KsegError(f"unknown normalization {normalization!r}; known: {known}, (mean, std), None")
        return NORMALIZATIONS[normalization]
    return normalization


import_modules(__name__)
