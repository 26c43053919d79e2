"""Compiles a model for inference, on any backend."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def compile_model(model: keras.Model) -> Callable[[Any], Any]:
    """Returns a compiled function from the model's input to its output, both of which stay on the device.

    On JAX it does not donate the weights, which running out of memory would lose.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        @jax.jit
        def predict_step(trainable, others, batch):
            return model.stateless_call(trainable, others, batch, training=False)[0]

        def step(batch):
            groups = (model.trainable_variables, model.non_trainable_variables)
            return predict_step(*([variable.value for variable in group] for group in groups), batch)

        return step
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda batch: model(batch, training=False), jit_compile=model.jit_compile)

    import torch

    def eager(batch):
        with torch.no_grad():
            return model(keras.tree.map_structure(ops.convert_to_tensor, batch), training=False)

    return eager
