"""Attention against its definition in float64."""

import keras
import numpy as np
import pytest

from kseg.models.layers import DotProductAttention
from kseg.models.ops.attention import attention

pytestmark = pytest.mark.backends


def defined(q, k, v, bias=0.0):
    scores = np.einsum("bnhd,bmhd->bhnm", *(x.astype("float64") for x in (q, k))) / q.shape[-1] ** 0.5 + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(axis=-1, keepdims=True), v.astype("float64"))


@pytest.mark.parametrize(("queries", "keys"), [(15, 8), (1, 1), (200, 1), (3, 500)])
def test_attention_is_a_weighted_mean(rng, queries, keys):
    q, k, v = (rng.normal(size=(2, length, 3, 16)).astype("float32") * 3 for length in (queries, keys, keys))
    found = keras.ops.convert_to_numpy(attention(*map(keras.ops.convert_to_tensor, (q, k, v))))
    np.testing.assert_allclose(found, defined(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_bias_is_added_to_the_scores(rng, groups):
    """Of 6 samples, each third one has the same bias."""
    q, k, v = (rng.normal(size=(6, 5, 2, 8)).astype("float32") for _ in range(3))
    bias = rng.normal(size=(groups, 2, 5, 5)).astype("float32") * 3
    found = keras.ops.convert_to_numpy(attention(*map(keras.ops.convert_to_tensor, (q, k, v, bias))))
    np.testing.assert_allclose(found, defined(q, k, v, np.tile(bias, (6 // groups, 1, 1, 1))), rtol=1e-4, atol=1e-5)


def test_the_softmax_of_16_bit_values_is_computed_in_float32(rng):
    """Scores of +-150: in bfloat16 they would be rounded by up to 0.5, and weights by a half."""
    q, k, v = (keras.ops.cast(rng.normal(size=(1, 40, 2, 16)) * scale, "bfloat16") for scale in (6, 6, 1))
    found = attention(q, k, v)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    expected = defined(*(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in (q, k, v)))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.cast(found, "float32")), expected, atol=0.02, rtol=0.02)


def test_keys_and_values_may_come_as_one_map(rng):
    q, k, v = (rng.normal(size=shape).astype("float32") for shape in [(2, 3, 5, 8), (2, 2, 4, 8), (2, 2, 4, 8)])
    layer = DotProductAttention(2)
    apart, together = (
        keras.ops.convert_to_numpy(layer(list(map(keras.ops.convert_to_tensor, maps))))
        for maps in ([q, k, v], [q, np.concatenate([k, v], axis=-1)])
    )
    np.testing.assert_array_equal(apart, together)
