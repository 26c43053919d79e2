"""How much memory a training step takes, on JAX."""

import math
from typing import Any

import keras

from kseg.errors import KsegError


def step_memory(model: keras.Model, images: Any, labels: Any) -> int:
    """Returns the bytes that XLA sets aside for the intermediate values of a compiled model's training step.

    images, labels: a batch, whose values do not matter. Weights, optimizer state and the batch itself come on top. The step is
    compiled for this, not run. How much it is depends on the device, and on how XLA orders a program: on CPUs for
    concurrency, whatever that takes, unless XLA_FLAGS hold kseg.xla_flags.SEQUENTIAL, as in kseg's commands on few cores.
    Raises KsegError on another backend than JAX.
    """
    return _compiled(model, images, labels).memory_analysis().temp_size_in_bytes


def compiled_step(model: keras.Model, images: Any, labels: Any) -> tuple[Any, tuple[list[Any], ...]]:
    """Returns (Keras's own training step of a compiled model, compiled with its state donated; a copy of the state now).

    logs, state = step(state, (images, labels)). Arguments and errors as step_memory's.
    """
    import jax

    step = _compiled(model, images, labels)
    return step, tuple([jax.numpy.array(variable.value, copy=True) for variable in group] for group in _state(model))


def kept_bytes(model: keras.Model, images: Any, labels: Any) -> int:
    """Returns the bytes that a training step keeps from its forward for its backward pass, as JAX asks XLA for: activations, and
    the weights that gradients need. Nothing is compiled. Arguments and errors as step_memory's.
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
    """Returns (Keras's own training step of a compiled model as jax.jit makes it, neither traced nor compiled; the arguments to
    call it with: state, which it is donated, and batch). The state is the model's own: after a step the model has no values.
    Arguments and errors as step_memory's.
    """
    import jax

    _build(model, images, labels)
    state = tuple([variable.value for variable in group] for group in _state(model))
    return jax.jit(model.train_step, donate_argnums=0), (state, (images, labels))


def _compiled(model: keras.Model, images: Any, labels: Any) -> Any:
    step, arguments = jitted_step(model, images, labels)
    return step.lower(*arguments).compile()


def _state(model: keras.Model) -> tuple[list[Any], ...]:
    """What Keras's training step takes and returns, in its order."""
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables


def _build(model: keras.Model, images: Any, labels: Any) -> None:
    """Makes the variables of the optimizer and the metrics."""
    if keras.backend.backend() != "jax":
        raise KsegError(f"the memory of a step is known on the JAX backend only, and this is {keras.backend.backend()}")
    model._symbolic_build(data_batch=(images, labels))  # as fit does: without computing anything
