"""Avoids tracing equal layers again and again: with a warm compilation cache, tracing is most of a run's start."""

from collections.abc import Callable
from typing import Any

import keras


def traced_once(function: Callable, static: tuple[str, ...] = ()) -> Callable:
    """Returns a pure function of arrays that JAX traces once for each combination of shapes and dtypes.

    The compiled program stays the same. static: names of the arguments that are not arrays. Other backends: returns `function`.
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function, static_argnames=static)


def is_traced(value: Any) -> bool:
    """Returns True if JAX is tracing a program and `value` belongs to it."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(value, jax.core.Tracer)
