"""Prepares a trained model for export: one head, no parallel branches, one precision, optionally quantised."""

import warnings
from dataclasses import dataclass

import keras

from kseg.models.auxiliary_head import inference_model
from kseg.models.layers import Normalize
from kseg.models.reparameterize import reparameterize_model
from kseg.utils.errors import KsegError

SMALLEST = 32
"""The least height and width of images of any size: a model divides them by 32."""


def serving_model(model: keras.Model, dtype: str) -> keras.Model:
    """Returns the model without its auxiliary head, with MobileOne in its fused form, computing in `dtype`.

    dtype: "float32"; or "bfloat16" for all layers except normalisation, batch norm's arithmetic and the last layer. Variables
    stay float32. Changes the layers of `model` itself, except where it has MobileOne.
    """
    model = reparameterize_model(inference_model(model))
    policy = keras.DTypePolicy("float32" if dtype == "float32" else "mixed_bfloat16")
    last = model.output._keras_history.operation
    for layer in model._flatten_layers(include_self=False):
        if layer is not last and not isinstance(layer, (Normalize, keras.layers.InputLayer)):
            layer.dtype_policy = policy
    return model


def quantize(model: keras.Model, mode: str) -> int:
    """Quantises the dense layers of a model in place and returns their number. mode: "int8".

    Kernels become int8 with one scale for each output; inputs are quantised at run time. Raises KsegError if the model has no
    dense layer.
    """
    dense = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, keras.layers.Dense)]
    if not dense:
        raise KsegError("the model has no dense layers, and Keras quantises no convolutions; leave --quantize out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Keras warns for every layer that it does not quantise
        model.quantize(mode)
    return len(dense)


@dataclass(frozen=True)
class Input:
    """Input and output of an exported model. Images are uint8 [batch, height, width, channels].

    batch: None for any. height, width: None for any, of at least SMALLEST. result: one of EXPORT_RESULTS: logits or
    probabilities, float32 [B, H, W, num_classes], or labels, uint8 [B, H, W].
    """

    height: int | None
    width: int | None
    channels: int
    result: str
    batch: int | None = None

    @property
    def shape(self) -> list[str | int]:
        """[B, H, W] of the images, with the names of the sides that are free."""
        sides = {"batch": self.batch, "height": self.height, "width": self.width}
        return [name if side is None else side for name, side in sides.items()]
