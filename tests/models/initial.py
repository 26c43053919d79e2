"""Building models without what it costs JAX to draw their initial weights: it compiles a random generator for every shape."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest


@contextlib.contextmanager
def zeros_for_random_numbers() -> Iterator[None]:
    """Initial weights are zeros: for models whose weights are overwritten anyway."""
    with _drawn(lambda shape: np.zeros(shape, "float32")):
        yield


@contextlib.contextmanager
def numpys_random_numbers() -> Iterator[None]:
    """Initial weights are numpy's random numbers, of the right spread, but not those that a seed gives otherwise."""
    generator = np.random.default_rng(0)
    with _drawn(lambda shape: generator.uniform(-1.0, 1.0, shape).astype("float32")):
        yield


@contextlib.contextmanager
def _drawn(draw: Callable[[Any], np.ndarray]) -> Iterator[None]:
    """draw: numbers in -1..1 of a shape."""

    def normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
        return mean + stddev * np.sqrt(3).astype("float32") * draw(shape)

    def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
        return (minval + maxval) / 2 + (maxval - minval) / 2 * draw(shape)

    with pytest.MonkeyPatch.context() as patch:
        for name, function in {"normal": normal, "truncated_normal": normal, "uniform": uniform}.items():
            patch.setattr(keras.src.backend.random, name, function)
        yield
