"""Tracing a function once: most of a warm start is Python that runs the model's, which repeats itself layer by layer."""

from collections.abc import Callable
from typing import Any

import keras


def traced_once(function: Callable, static: tuple[str, ...] = ()) -> Callable:
    """Returns `function`, a pure one of arrays, which JAX then runs in Python once for all arguments of the same shapes and
    dtypes; the program is the same. static: the arguments that are no arrays. Other backends: the function itself.
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function, static_argnames=static)


def is_traced(value: Any) -> bool:
    """Whether a value is one of a JAX program that is being made."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(value, jax.core.Tracer)
