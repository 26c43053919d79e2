"""The model as it is served: one head, one precision."""

import warnings
from dataclasses import dataclass

import keras

from kseg.models.auxiliary_head import inference_model
from kseg.models.layers import Normalize
from kseg.utils.errors import KsegError


def serving_model(model: keras.Model, dtype: str) -> keras.Model:
    """Returns the model's main head, of the same variables, computing in dtype: "float32", or "bfloat16" for all but the
    normalisation, batch norm's arithmetic and the last layer. In whatever precision it was trained, the variables are float32.

    Changes the layers of the model that it is given.
    """
    model = inference_model(model)
    policy = keras.DTypePolicy("float32" if dtype == "float32" else "mixed_bfloat16")
    last = model.output._keras_history.operation
    for layer in model._flatten_layers(include_self=False):
        if layer is not last and not isinstance(layer, (Normalize, keras.layers.InputLayer)):
            layer.dtype_policy = policy
    return model


def quantize(model: keras.Model, mode: str) -> int:
    """Quantises what Keras can of a model in place, its dense layers, and returns their number. mode: "int8".

    Their kernels become int8 with a scale for each output, and their inputs are rounded likewise at run time. Raises KsegError
    for a model without any.
    """
    dense = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, keras.layers.Dense)]
    if not dense:
        raise KsegError("the model has no dense layers, and Keras quantises no convolutions; leave --quantize out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one for every layer that is left as it is
        model.quantize(mode)
    return len(dense)


@dataclass(frozen=True)
class Input:
    """What an exported model takes: images uint8 [any, height, width, channels], and what becomes of its logits.

    argmax: True gives labels uint8 [B, H, W], False logits float32 [B, H, W, num_classes].
    """

    height: int
    width: int
    channels: int
    argmax: bool
