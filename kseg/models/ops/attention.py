"""Attention, by the operation of each Keras backend that is fastest."""

from typing import Any

import keras
from keras import ops

from kseg.models.ops.platforms import by_platform


def attention(q: Any, k: Any, v: Any, bias: Any = None) -> Any:
    """Means of values v, weighted by softmax(q k^T / sqrt(D) + bias), for each head (Vaswani et al. 2017, arXiv:1706.03762).

    q: [B, N, heads, D]. k, v: [B, M, heads, D], of the same dtype. The softmax is computed in float32.
    bias: float32 [G, heads, N, M]; G divides B, and the sample b gets bias[b % G].
    Returns [B, N, heads, D] of q's dtype.
    """
    q, k, v = (ops.convert_to_tensor(x) for x in (q, k, v))
    match keras.backend.backend():
        case "jax":
            biases = [] if bias is None else [bias]
            # JAX's own takes 1.1 to 3 times as long on a CPU.
            return by_platform(q, k, v, *biases, cpu=_heads_first, default=_jax_attention)
        case "tensorflow":  # it would round 16-bit scores before the softmax
            q32, k32, v32 = (ops.cast(x, "float32") for x in (q, k, v))
            return ops.cast(ops.dot_product_attention(q32, k32, v32, bias=_for_each_sample(bias, q)), q.dtype)
        case _:
            return ops.dot_product_attention(q, k, v, bias=_for_each_sample(bias, q))


def _for_each_sample(bias, q):
    """Returns bias [1 or B, heads, N, M] from [G, heads, N, M]."""
    if bias is None or bias.shape[0] == 1:
        return bias
    return ops.tile(bias, (ops.shape(q)[0] // ops.shape(bias)[0], 1, 1, 1))


def _jax_attention(q, k, v, *bias):
    import jax

    return jax.nn.dot_product_attention(q, k, v, *(_for_each_sample(x, q) for x in bias))


def _heads_first(q, k, v, *bias):
    """Attention on JAX by products of matrices [B, heads, rows, columns], without further transposes."""
    import jax
    import jax.numpy as jnp

    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    scores = jnp.matmul(q, jnp.swapaxes(k, 2, 3), preferred_element_type="float32") * q.shape[-1] ** -0.5
    for x in bias:
        scores = (scores.reshape(-1, x.shape[0], *scores.shape[1:]) + x).reshape(scores.shape)
    return jnp.swapaxes(jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(v.dtype), v), 1, 2)
