"""How much memory a training step takes, on JAX."""

import contextlib
import ctypes
import math
import sys
from collections.abc import Iterator
from typing import Any

import keras

from kseg.config import TrainConfig
from kseg.utils.errors import KsegError


def step_memory(model: keras.Model, images: Any, labels: Any) -> int:
    """Returns the bytes that XLA sets aside for the intermediate values of a compiled model's training step.

    images, labels: a batch, whose values do not matter. Weights, optimizer state and the batch itself come on top. The step is
    compiled for this, not run. How much it is depends on the device, and on how XLA orders a program: on CPUs for
    concurrency, whatever that takes, unless XLA_FLAGS hold kseg.runtime.xla_flags.SEQUENTIAL, as in kseg's commands on few cores.
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


def return_freed_memory() -> None:
    """Gives the system what the C library keeps of memory that was freed, hundreds of MB after compiling a model's step.

    It takes some hundredths of a second. Only glibc (most Linux systems) can be asked to; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


_NAMES = ("OutOfMemoryError", "ResourceExhaustedError")  # torch's on a GPU, TensorFlow's


_SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "can't allocate memory")  # JAX's; torch's on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX, TensorFlow, torch or Python says that the device's or the host's memory ran out."""
    if isinstance(error, KsegError):
        return False
    known = isinstance(error, MemoryError) or type(error).__name__ in _NAMES
    return known or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS))


@contextlib.contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turns want of memory while a model trains into a KsegError that names what to try.

    Another batch size would make another run of it, so it is not for the program to choose.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        batch, steps = config.batch_size, config.optimization.accumulate_steps
        fewer = max(1, batch // 2)
        smaller = f"--batch_size={fewer} (with --accumulate_steps={steps * batch // fewer} an update sees as many images), "
        raise KsegError(
            f"memory ran out while training with --batch_size={batch}, --image_size={'x'.join(map(str, config.image_size))}; try "
            f"{smaller if batch > 1 else ''}a smaller --image_size, --remat or --precision=mixed_bfloat16"
        ) from error
