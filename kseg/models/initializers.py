"""Initial values of weights, without a program for each of their shapes.

JAX compiles what makes an array, be it a random generator or zeros, for every shape, and a network has dozens of shapes: up to a
quarter of a second and some MB of memory each. Here constants are NumPy's, and random numbers are drawn in rows of a few lengths,
of which a kernel takes the beginning. They are the same as without: JAX's generator gives each by its place in the row.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

LENGTHS = tuple(4**power for power in range(6, 12))
"""Of the rows: 4096 to 4 million numbers. What needs more is drawn in its own shape."""
TRUNCATED_STDDEV = 0.87962566103423978
"""The standard deviation of a standard normal distribution without what is beyond 2."""
_CONSTANTS = {keras.initializers.Zeros: np.zeros, keras.initializers.Ones: np.ones}
_SHAPELESS = (keras.initializers.RandomUniform, keras.initializers.RandomNormal, keras.initializers.TruncatedNormal)

_draws = contextvars.ContextVar("draws", default=True)


@contextlib.contextmanager
def skip_random_init() -> Iterator[None]:
    """Within, what would be drawn is zeros: for weights that are then read from a file."""
    token = _draws.set(False)
    try:
        yield
    finally:
        _draws.reset(token)


class FewCompilations:
    """An initializer with the values of another, which is Keras's or its name."""

    def __init__(self, initializer: Any):
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape, dtype=None):
        dtype = dtype or keras.config.floatx()
        draw, constant = _without_shape(self.initializer, shape), _CONSTANTS.get(type(self.initializer))
        if draw is not None and not _draws.get():
            return _on_device(np.zeros(shape, dtype))
        if keras.backend.backend() == "jax" and constant is not None:
            return _on_device(constant(shape, dtype))
        size = math.prod(shape)
        length = next((length for length in LENGTHS if length >= size), None)
        if keras.backend.backend() != "jax" or draw is None or length is None:
            return self.initializer(shape, dtype)
        import jax

        row = draw((length,), dtype)
        if isinstance(row, jax.core.Tracer):
            return row[:size].reshape(shape)
        return _on_device(np.asarray(row)[:size].reshape(shape))


def _without_shape(initializer: Any, shape: tuple[int, ...]) -> Any:
    """Returns an initializer whose numbers' distribution does not depend on the shape, and is the given one's for `shape`; None
    if it draws no numbers, or in a way that is not known.
    """
    if type(initializer) in _SHAPELESS:
        return initializer
    if not isinstance(initializer, keras.initializers.VarianceScaling) or len(shape) < 2:
        return None
    if initializer.input_axes or initializer.output_axes:
        return None
    area = math.prod(shape[:-2])  # of a kernel [..., in, out]
    fans = {"fan_in": area * shape[-2], "fan_out": area * shape[-1], "fan_avg": area * (shape[-2] + shape[-1]) / 2}
    variance = initializer.scale / max(1.0, fans[initializer.mode])
    if initializer.distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return keras.initializers.RandomUniform(-limit, limit, initializer.seed)
    if initializer.distribution == "untruncated_normal":
        return keras.initializers.RandomNormal(0.0, math.sqrt(variance), initializer.seed)
    return keras.initializers.TruncatedNormal(0.0, math.sqrt(variance) / TRUNCATED_STDDEV, initializer.seed)


def _on_device(values: np.ndarray) -> Any:
    """values as a tensor. On JAX without the program that keras.ops.convert_to_tensor would compile for their shape."""
    if keras.backend.backend() != "jax":
        return keras.ops.convert_to_tensor(values)
    import jax

    return jax.device_put(values, may_alias=False)
