"""Builds a model: normalisation, backbone, decoder, and the resize to the input's size."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import keras

import kseg.models.backbones
import kseg.models.decoders  # noqa: F401  (registers the models)
from kseg.models.backbone import Backbone
from kseg.models.backbones.registry import BACKBONES, backbone_options, check_backbone, find_backbone
from kseg.models.blocks import fcn_head
from kseg.models.channels import channel_statistics
from kseg.models.classification_head import ClassificationHead
from kseg.models.layers import NORMALIZATIONS, Normalize, Resize
from kseg.models.options import check_options
from kseg.models.pretrained import Pretrained, find_weights
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError


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
    classification: bool | Mapping[str, Any] = False,
    **options: Any,
) -> keras.Model:
    """Builds a segmentation model.

    name: one of list_models(). num_classes: at least 1. backbone: one of list_backbones(), or smp's `tu-` name of one, by default
    the model's own.
    output_stride: 8, 16 or 32, by default the model's own.
    backbone_weights: None for random weights, a tag such as "imagenet", hf://owner/repo[@revision], or a file; see
    kseg.models.pretrained.find_weights.
    input_shape: (height, width, channels) of the images; None for any height or width of at least 32.
    normalization: "auto" for the mean and std that backbone_weights need (mostly ImageNet's), "imagenet", a (mean, std) pair for
    channels in 0..1, or None for images that are normalised already. For images that are not RGB, a mean and std of RGB are
    averaged (one channel) or repeated (R, G, B, R, ...).
    auxiliary: adds torchvision's auxiliary head on c4 (layers aux_classifier_...) for training; see kseg.models.auxiliary_head.
    classification: adds smp's classification head on the deepest features that the decoder reads; see
    kseg.models.classification_head. True, or smp's aux_params, such as {"pooling": "max", "classes": 4, "dropout": 0.5}; by
    default "avg", num_classes and 0.2.
    options: the decoder's own parameters, such as dilation_rates.

    Returns a keras.Model from images [B, H, W, C] in 0..255, uint8 or float, to float32 logits [B, H, W, num_classes] without
    softmax. With an auxiliary head it returns {"logits": ..., "auxiliary": ...}, both of this shape; with a classification head
    also {"classification": ...}, logits [B, classes], without smp's activation.
    Raises KsegError for an unknown name, and for options that do not go together.
    """
    entry = MODELS[name]
    output_stride = output_stride or entry.info["output_stride"]
    backbone = find_backbone(backbone or entry.info["backbone"], output_stride)
    if num_classes < 1:
        raise KsegError(f"num_classes must be at least 1, not {num_classes}")
    if any(side is not None and side < 32 for side in input_shape[:2]):
        raise KsegError(f"input_shape {input_shape} is too small: height and width must be at least 32")
    options = check_options(name, options)
    levels = entry.info["levels"](**options)
    weights = None if backbone_weights is None else find_weights(backbone, backbone_weights)
    encoder = build_backbone(
        backbone,
        output_stride=output_stride,
        weights=weights,
        input_shape=input_shape,
        **{name: options[name] for name in ("form", "drop_path") if name in options},
    )
    images = keras.Input(input_shape, name="images", dtype="float32")
    x = images
    if normalization is not None:
        mean, std = _mean_and_std(normalization, weights)
        x = Normalize(*channel_statistics(mean, std, input_shape[-1]), name="normalize")(images)
    missing = [level for level in levels if level not in encoder.output]
    if missing:
        raise KsegError(f"model {name} needs the features {', '.join(missing)}, which backbone {backbone} does not have")
    if auxiliary and "c4" not in encoder.output:
        raise KsegError(f"an auxiliary head needs the features c4, which backbone {backbone} does not have; train without one")
    encoder = encoder.up_to(max([*levels, *(["c4"] if auxiliary else [])]))
    features = encoder(x)
    logits = entry.build(_Features({**features, "images": images}, name), num_classes=num_classes, **options)
    heads = {"logits": logits}
    if auxiliary:
        heads["auxiliary"] = fcn_head(features["c4"], num_classes, name="aux_classifier")
    align_corners = entry.info["align_corners"](**options)
    resized = {head: Resize(align_corners, dtype="float32", name=head)([x, images]) for head, x in heads.items()}
    if classification is not False:
        settings = {} if classification is True else classification
        resized["classification"] = ClassificationHead.of(settings, num_classes).build(features[max(levels)])
    return keras.Model(images, resized if len(resized) > 1 else resized["logits"], name=name)


class _Features(dict):
    """Features by level. A decoder that reads a level which it did not register gets a message that says so."""

    def __init__(self, features: dict[str, Any], model: str):
        super().__init__(features)
        self._model = model

    def __missing__(self, level: str) -> Any:
        raise RuntimeError(f"the decoder of {self._model} reads {level}; name it in levels= of its register_model")


def _mean_and_std(normalization, weights):
    if normalization == "auto":
        return (weights.mean, weights.std) if weights else NORMALIZATIONS["imagenet"]
    if isinstance(normalization, str):
        if normalization not in NORMALIZATIONS:
            known = ", ".join(["auto", *NORMALIZATIONS])
            raise KsegError(f"unknown normalization {normalization!r}; known: {known}, (mean, std), None")
        return NORMALIZATIONS[normalization]
    return normalization


def build_backbone(
    name: str,
    *,
    output_stride: int = 32,
    weights: str | os.PathLike | Pretrained | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    form: str = "smp",
    drop_path: float | None = None,
) -> Any:
    """Builds a backbone.

    name: one of list_backbones(), or smp's `tu-` name of one; keras-cv's are `keras_cv/<name>`.
    output_stride: 8, 16 or 32, the stride of `c5`. Below 32, dilation replaces the stride of the last stages.
    weights: None for random weights, a tag such as "imagenet", hf://owner/repo[@revision], or a file; see
    kseg.models.pretrained.find_weights. The first convolution is adapted to other than three channels (adapt_kernel).
    input_shape: (height, width, channels) of the images; None for any size.
    form: "smp", or "transformers" for the network that transformers builds of the same name, where it computes other numbers.
    drop_path: the rate of stochastic depth in the last block; None for the backbone's own.

    Returns a Backbone (a keras.Model) named "backbone", from normalised images [B, H, W, C] to {"c1": ..., "c5": ...}.
    Raises KsegError for an unknown name, an unsupported stride, and weights that are missing or do not fit.
    """
    name = find_backbone(name, output_stride)
    check_backbone(name, output_stride)
    options = backbone_options(name, form, drop_path)
    if weights is None:
        return _backbone(name, BACKBONES[name].build(output_stride=output_stride, input_shape=input_shape, **options))
    found = weights if isinstance(weights, Pretrained) else find_weights(name, weights)
    build = found.build or BACKBONES[name].build
    model = build(output_stride=output_stride, input_shape=input_shape, **options)
    if found.fill is not None:
        found.fill(model)
    return _backbone(name, model)


def _backbone(registered_name: str, model: Any) -> Backbone:
    backbone = Backbone(model.inputs[0], model.output, name="backbone")
    backbone.registered_name = registered_name
    return backbone


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Sets the Keras dtype policy of the layers that are made inside the `with` block.

    policy: float32, or mixed_bfloat16 or mixed_float16, which compute in 16 bits and keep variables in float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
