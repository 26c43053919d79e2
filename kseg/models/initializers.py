"""Initial weights: Keras's random initializers, drawn by few programs.

JAX compiles a random generator for every shape, and a network has dozens of shapes: a quarter of a second and some MB of memory
each. Here numbers are drawn in rows of a few lengths, of which a kernel takes the beginning. They are the same numbers, since
JAX's generator gives each by its place in the row.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

LENGTHS = tuple(4**power for power in range(6, 12))
"""Of the rows: 4096 to 4 million numbers. What needs more is drawn in its own shape."""
TRUNCATED_STDDEV = 0.87962566103423978
"""The standard deviation of a standard normal distribution without what is beyond 2."""

_draws = contextvars.ContextVar("draws", default=True)
_register = keras.saving.register_keras_serializable("kseg")


@_register
class RandomUniform(keras.initializers.RandomUniform):
    """Keras's, drawn in rows."""

    def __call__(self, shape, dtype=None):
        return _in_rows(super().__call__, shape, dtype)


@_register
class VarianceScaling(keras.initializers.VarianceScaling):
    """Keras's, drawn in rows, for kernels [..., in, out]."""

    def __call__(self, shape, dtype=None):
        area = math.prod(shape[:-2])
        fans = {"fan_in": area * shape[-2], "fan_out": area * shape[-1], "fan_avg": area * (shape[-2] + shape[-1]) / 2}
        variance = self.scale / max(1.0, fans[self.mode])
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            draw = keras.initializers.RandomUniform(-limit, limit, self.seed)
        elif self.distribution == "untruncated_normal":
            draw = keras.initializers.RandomNormal(0.0, math.sqrt(variance), self.seed)
        else:
            draw = keras.initializers.TruncatedNormal(0.0, math.sqrt(variance) / TRUNCATED_STDDEV, self.seed)
        return _in_rows(draw, shape, dtype)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within, this module's initializers give zeros: for layers whose weights are then read from a file."""
    token = _draws.set(False)
    try:
        yield
    finally:
        _draws.reset(token)


def in_rows(initializer: Any) -> Any:
    """Returns VarianceScaling with a new seed if a layer's initializer is a kind of it in Keras, else the initializer."""
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer
    return VarianceScaling(initializer.scale, initializer.mode, initializer.distribution)


def torch_uniform(fan_in: int) -> RandomUniform:
    """PyTorch's default initialisation of a convolution: uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return RandomUniform(-bound, bound)


def glorot_uniform() -> VarianceScaling:
    """Glorot and Bengio 2010, proceedings.mlr.press/v9/glorot10a.html."""
    return VarianceScaling(1.0, "fan_avg", "uniform")


def he_uniform() -> VarianceScaling:
    """He et al. 2015, arXiv:1502.01852."""
    return VarianceScaling(2.0, "fan_in", "uniform")


def he_normal(mode: str = "fan_in", distribution: str = "truncated_normal") -> VarianceScaling:
    """He et al. 2015, arXiv:1502.01852."""
    return VarianceScaling(2.0, mode, distribution)


def _in_rows(draw: Callable[..., Any], shape: Any, dtype: Any) -> Any:
    """Returns draw(shape, dtype)."""
    if not _draws.get():
        return _on_device(np.zeros(shape, dtype or keras.config.floatx()))
    size = math.prod(shape)
    length = next((length for length in LENGTHS if length >= size), None)
    if keras.backend.backend() != "jax" or length is None:
        return draw(shape, dtype)
    import jax

    row = draw((length,), dtype)
    if isinstance(row, jax.core.Tracer):
        return row[:size].reshape(shape)
    return _on_device(np.asarray(row)[:size].reshape(shape))


def _on_device(values: np.ndarray) -> Any:
    """values as a tensor, without a program for their shape, which JAX would compile otherwise."""
    if keras.backend.backend() != "jax":
        return keras.ops.convert_to_tensor(values)
    import jax

    return jax.device_put(values, may_alias=False)
