"""Building models whose weights are overwritten anyway."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import pytest


@contextlib.contextmanager
def zeros_for_random_numbers() -> Iterator[None]:
    """Initial weights are zeros: JAX would compile a random generator for every shape, seconds a network."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal", "truncated_normal", "uniform"):
            patch.setattr(keras.src.backend.random, name, lambda shape, *args, **kwargs: np.zeros(shape, "float32"))
        yield
