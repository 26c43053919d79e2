"""Memory: measures what a training step needs on JAX, and returns freed memory to the system."""

import ctypes
import math
import sys
from typing import Any

import keras

from kseg.utils.errors import KsegError


def step_memory(model: keras.Model, images: Any, labels: Any) -> int:
    """Returns the bytes that XLA reserves for the intermediate values of a compiled model's training step.

    Weights, optimizer state and the batch come on top. The step is compiled for this, not run. The result depends on the device
    and, on a CPU, on XLA's scheduler: see kseg.runtime.xla_flags.

    Args:
        images, labels: a batch. Only shapes and dtypes matter.

    Raises:
        KsegError: on backends other than JAX.
    """
    return _compiled(model, images, labels).memory_analysis().temp_size_in_bytes


def compiled_step(model: keras.Model, images: Any, labels: Any) -> tuple[Any, tuple[list[Any], ...]]:
    """Returns Keras's own training step, compiled, and a copy of the model's state to call it with.

    Call it as logs, state = step(state, (images, labels)). The step takes over the memory of the state that it is given.
    Arguments and errors: as for step_memory.
    """
    import jax

    step = _compiled(model, images, labels)
    return step, tuple([jax.numpy.array(variable.value, copy=True) for variable in group] for group in _state(model))


def kept_bytes(model: keras.Model, images: Any, labels: Any) -> int:
    """Returns the bytes that a training step keeps between its forward and its backward pass: activations, and the weights that
    gradients need. This is what JAX asks of XLA; nothing is compiled. Arguments and errors: as for step_memory.
    """
    import jax

    _build(model, images, labels)
    groups = (model.non_trainable_variables, model.metrics_variables, model.optimizer.variables)
    fixed, metrics, optimizer = ([variable.value for variable in group] for group in groups)

    def backward(trainable):
        def loss(values):
            return model.compute_loss_and_updates(
                values, fixed, metrics, images, labels, None, training=True, optimizer_variables=optimizer
            )

        return jax.vjp(loss, trainable, has_aux=True)[1]

    kept = jax.eval_shape(backward, [variable.value for variable in model.trainable_variables])
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def jitted_step(model: keras.Model, images: Any, labels: Any) -> tuple[Any, tuple[Any, Any]]:
    """Returns Keras's own training step under jax.jit, not yet traced or compiled, and its arguments (state, batch).

    The step takes over the memory of the state, which is the model's own: after a step the model has no values.
    Arguments and errors: as for step_memory.
    """
    import jax

    _build(model, images, labels)
    state = tuple([variable.value for variable in group] for group in _state(model))
    return jax.jit(model.train_step, donate_argnums=0), (state, (images, labels))


def _compiled(model: keras.Model, images: Any, labels: Any) -> Any:
    step, arguments = jitted_step(model, images, labels)
    return step.lower(*arguments).compile()


def _state(model: keras.Model) -> tuple[list[Any], ...]:
    """Returns the state that Keras's training step takes and returns, in its order."""
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables


def _build(model: keras.Model, images: Any, labels: Any) -> None:
    """Creates the variables of the optimizer and the metrics."""
    if keras.backend.backend() != "jax":
        raise KsegError(f"the memory of a step is known on the JAX backend only, and this is {keras.backend.backend()}")
    # Private in Keras. fit uses it; the public ways to create the variables of metrics compute a step.
    model._symbolic_build(data_batch=(images, labels))


def return_freed_memory() -> None:
    """Returns memory to the system that the C library keeps after it was freed: hundreds of MB after a compilation.

    It takes some hundredths of a second. Only glibc (most Linux systems) supports it; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
