"""Initializers that keep compile time low: the values of Keras's initializers without a compiled program for every shape.

JAX compiles a program for each shape of an array that it creates, random or constant. A network has dozens of shapes, and each
program costs up to a quarter of a second and some MB of memory. Here constants come from NumPy. Random numbers are drawn in rows
of a few fixed lengths, and a kernel takes the first numbers of a row. The values stay the same, because JAX's generator computes
each number from its position in the row.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

LENGTHS = tuple(4**power for power in range(6, 12))
"""Lengths of the rows: 4096 to 4 million numbers. Larger arrays are drawn in their own shape."""
TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a standard normal distribution truncated at +-2."""
_CONSTANTS = {keras.initializers.Zeros: np.zeros, keras.initializers.Ones: np.ones}
_SHAPELESS = (keras.initializers.RandomUniform, keras.initializers.RandomNormal, keras.initializers.TruncatedNormal)

_draws = contextvars.ContextVar("draws", default=True)


@contextlib.contextmanager
def skip_random_init() -> Iterator[None]:
    """Makes random initial values zeros inside the `with` block: use it where weights are read from a file next.

    Skips drawing the numbers and compiling the programs that draw them.
    """
    token = _draws.set(False)
    try:
        yield
    finally:
        _draws.reset(token)


class FewCompilations:
    """Wraps an initializer: the same values from a few compiled programs, shared by all shapes.

    initializer: a Keras initializer or its name.
    """

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
    """Returns an initializer with the given one's distribution for `shape`, whatever shape it is called with.

    Returns None for an initializer that draws no numbers, or draws them in an unknown way.
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
    """Returns values as a tensor. On JAX it avoids keras.ops.convert_to_tensor, which compiles a program for every shape."""
    if keras.backend.backend() != "jax":
        return keras.ops.convert_to_tensor(values)
    import jax

    return jax.device_put(values, may_alias=False)
