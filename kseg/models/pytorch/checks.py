"""Reasons to refuse a PyTorch checkpoint, before its tensors are put into a model's layers."""

from collections.abc import Container, Mapping
from typing import Any

import keras

from kseg.models.transformers_keys import has_transformers_form
from kseg.utils.errors import KsegError

HEADS = (
    "segmentation_head_", "classification_head_3", "classifier_4", "aux_classifier_4", "decoder_score_", "decoder_upscore",
)  # fmt: skip
"""Layers with one filter or unit per class: smp's, torchvision's, and those of kseg's FCN."""


def check_form(layers: Mapping[str, keras.Layer], sources: tuple[str, ...]) -> None:
    """Raises KsegError for a whole model of transformers' form and a checkpoint of smp's, or the other way round."""
    checkpoint, model = sources == ("transformers",), has_transformers_form(layers)
    if checkpoint and not model:
        raise KsegError(
            "the checkpoint is of transformers, the model is not; they compute other numbers with the same weights; build "
            "segformer or upernet with form='transformers' (--model_options=form=transformers)"
        )
    if model and not checkpoint:
        raise KsegError(
            "the model has the form of transformers, the checkpoint has not; they compute other numbers with the same weights; "
            "leave out the option form=transformers"
        )


def check_efficientnet(layers: Mapping[str, keras.Layer], modules: Container[str]) -> None:
    """Raises KsegError for a whole model on another form of EfficientNet: its weights fit, and would give other numbers.

    The weights of a backbone alone may go from one form to another.
    """
    own = "encoder__conv_stem" if "encoder__conv_stem" in layers else "encoder_conv_stem"
    if "encoder_blocks_6_0_conv_pwl" not in layers and own == "encoder_conv_stem":
        return  # neither V1 nor Lite
    if own == "encoder_conv_stem" and layers["encoder_bn1"].epsilon > 1e-4:
        own = "encoder_model_conv_stem"
    forms = {
        "encoder__conv_stem": "efficientnet-b0",
        "encoder_conv_stem": "timm-efficientnet-b0 or timm-tf_efficientnet_lite0",
        "encoder_model_conv_stem": "tf_efficientnet_b0",
    }
    found = next((name for name in forms if name in modules), None)
    whole = any(name.startswith("segmentation_head") for name in layers)
    if whole and found not in (None, own):
        raise KsegError(
            f"the checkpoint's EfficientNet is of the form of {forms[found]}, the model's of {forms[own]}; they compute other "
            "numbers with the same weights; choose the backbone of that form"
        )


def check_classes(layers: Mapping[str, keras.Layer], modules: Mapping[str, Any]) -> None:
    """Raises KsegError for a checkpoint with another number of classes than the model's."""
    for name, layer in layers.items():
        weight = modules[name].tensors.get("weight") if name in modules else None
        if not name.startswith(HEADS) or weight is None or weight.ndim not in (2, 4):
            continue
        classes = layer.units if isinstance(layer, keras.layers.Dense) else layer.filters
        if weight.shape[0] != classes:
            option = (
                f'classification={{"classes": {weight.shape[0]}}}'
                if "classification" in name
                else f"num_classes={weight.shape[0]}"
            )
            raise KsegError(
                f"the checkpoint's head {modules[name].path} has {weight.shape[0]} classes, the model's {classes}; use {option}, "
                "or keep the model's own head with --reset_head (reset_head=True)"
            )


def refuse(what: str, names: list[str], hint: str) -> None:
    """Raises KsegError with the first of some names, if there are any."""
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise KsegError(f"{what} {', '.join(names[:5])}{more}; {hint}")
