"""Values that XLA is to compute once."""

import keras
import numpy as np
import pytest

from kseg.models.ops.platforms import computed_once


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="other backends compute everything once; the run on JAX has it")
def test_values_and_gradients_stay_and_nan_is_passed_on(rng):
    import jax

    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    value, gradient = jax.jit(jax.value_and_grad(lambda x: (computed_once(x) ** 3).sum()))(x)
    np.testing.assert_allclose(value, (x**3).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, 3 * x**2, rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(computed_once)(x), x)
    each = jax.jit(jax.vmap(computed_once))(x)
    np.testing.assert_array_equal(each, x)
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(jax.jit(computed_once)(x)).all()
