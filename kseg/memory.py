"""How much memory a compiled training step takes."""

from typing import Any

import keras

from kseg.errors import KsegError


def step_memory(model: keras.Model, images: Any, labels: Any) -> int:
    """Returns the bytes that XLA sets aside for the intermediate values of a training step of a compiled model.

    images, labels: a batch, whose values do not matter. Weights, optimizer state and the batch itself come on top. The step is
    compiled for this, and not run. Raises KsegError on another backend than JAX.
    """
    if keras.backend.backend() != "jax":
        raise KsegError(f"the memory of a step is known on the JAX backend only, and this is {keras.backend.backend()}")
    import jax

    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.train_on_batch  # noqa: B018
    variables = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables)
    state = [[variable.value for variable in group] for group in variables]
    step = jax.jit(model.train_step, donate_argnums=0)
    return step.lower(state, (images, labels)).compile().memory_analysis().temp_size_in_bytes
