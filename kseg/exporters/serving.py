"""The model as it is served: one head, one precision."""

import keras

from kseg.models.layers import Normalize
from kseg.models.supervision import main_head


def serving_model(model: keras.Model, dtype: str) -> keras.Model:
    """Returns the model's main head, of the same variables, computing in dtype: "float32", or "bfloat16" for all but the
    normalisation, batch norm's arithmetic and the last layer. In whatever precision it was trained, the variables are float32.

    Changes the layers of the model that it is given.
    """
    model = main_head(model)
    policy = keras.DTypePolicy("float32" if dtype == "float32" else "mixed_bfloat16")
    last = model.output._keras_history.operation
    for layer in model._flatten_layers(include_self=False):
        if layer is not last and not isinstance(layer, (Normalize, keras.layers.InputLayer)):
            layer.dtype_policy = policy
    return model
