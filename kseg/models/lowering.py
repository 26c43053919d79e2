"""How a grouped, depthwise or pointwise convolution is computed on each platform.

XLA's own convolution is 30 to 100 times slower than need be on a CPU when it is grouped or depthwise, and 2 to 7 times when
it is 1x1. On JAX these functions compute it as sums of shifted products, or as one matrix product, when the program is lowered
for a CPU, and leave GPU and TPU to the library (`jax.lax.platform_dependent` chooses while lowering, so one jitted function
serves every platform). On the other Keras backends the library's convolution is used everywhere. Results differ from the
library's by float32 rounding only.
"""

from functools import cache
from typing import Any

import keras


def depthwise_conv2d(inputs: Any, kernel: Any, *, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Depthwise convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C, M]. strides, dilation_rate: (rows, columns). padding: "valid" or "same" (the
    far side is padded more, as Keras does). Returns [B, H', W', C * M] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() != "jax" or kernel.shape[-1] != 1:
        return keras.ops.depthwise_conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)
    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    pads = _pads(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)
    return _jax_depthwise(strides, pads, dilation_rate)(inputs, kernel)


def pointwise_conv2d(inputs: Any, kernel: Any) -> Any:
    """1x1 convolution with stride 1. inputs: [B, H, W, C], kernel: [1, 1, C, D]. Returns [B, H, W, D]."""
    if keras.backend.backend() != "jax":
        return keras.ops.conv(inputs, kernel, padding="valid")
    import jax

    def product(x, k):
        return jax.numpy.dot(x.reshape(-1, x.shape[-1]), k[0, 0]).reshape(*x.shape[:-1], k.shape[-1])

    def library(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=_NHWC)

    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    return jax.lax.platform_dependent(inputs, kernel, cpu=product, default=library)


def grouped_conv2d(inputs: Any, kernel: Any, *, groups: int, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Grouped convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C / groups, D]. strides, dilation_rate: (rows, columns). padding: "valid" or "same".
    Returns [B, H', W', D] of inputs' dtype.
    """
    if keras.backend.backend() != "jax":
        return keras.ops.conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)
    import jax
    import jax.numpy as jnp

    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    pads = _pads(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)

    def shifts(x, kernel):
        kh, kw, channels, filters = kernel.shape
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        size = _output_size(x.shape[1:3], (kh, kw), strides, dilation_rate)
        kernel = kernel.reshape(kh, kw, channels, groups, filters // groups)
        total = jnp.zeros((), "float32")
        for (i, j), window in _windows(x, size, (kh, kw), strides, dilation_rate):
            window = window.reshape(-1, groups, channels)
            total = total + jnp.einsum("ngc,cgo->ngo", window, kernel[i, j], preferred_element_type="float32")
        return total.reshape(x.shape[0], *size, filters).astype(x.dtype)

    def library(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, pads, rhs_dilation=dilation_rate, dimension_numbers=_NHWC, feature_group_count=groups
        )

    return jax.lax.platform_dependent(inputs, kernel, cpu=shifts, default=library)


_NHWC = ("NHWC", "HWIO", "NHWC")


def _output_size(size, kernel_size, strides, dilation_rate):
    """Rows and columns that come out of an input whose padding is already there."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation_rate, strict=True)]
    return [(n - span) // s + 1 for n, span, s in zip(size, spans, strides, strict=True)]


def _windows(x, size, kernel_size, strides, dilation_rate):
    """Yields ((i, j), the pixels of the padded input x [B, H, W, C] that tap (i, j) meets [B, *size, C])."""
    from jax import lax

    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            start = (i * dilation_rate[0], j * dilation_rate[1])
            stop = [s + (n - 1) * step + 1 for s, n, step in zip(start, size, strides, strict=True)]
            yield (i, j), lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[3]), (1, *strides, 1))


def _pads(size, kernel_size, strides, padding, dilation_rate):
    """Returns ((top, bottom), (left, right))."""
    if padding == "valid":
        return ((0, 0), (0, 0))
    pads = []
    for length, k, s, d in zip(size, kernel_size, strides, dilation_rate, strict=True):
        total = max((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


@cache
def _jax_depthwise(strides, pads, dilation_rate):
    """Returns f(x [B, H, W, C], kernel [kh, kw, C, 1]) with a gradient of its own; one object per geometry, so that jit
    caches hit.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    def padded(x):
        return jnp.pad(x, ((0, 0), *pads, (0, 0)))

    @jax.custom_vjp
    def shifts(x, kernel):
        xp = padded(x)
        size = _output_size(xp.shape[1:3], kernel.shape[:2], strides, dilation_rate)
        taps = _windows(xp, size, kernel.shape[:2], strides, dilation_rate)
        return sum(window.astype("float32") * kernel[i, j, :, 0] for (i, j), window in taps).astype(x.dtype)

    def forward(x, kernel):
        return shifts(x, kernel), (x, kernel)

    def backward(saved, dy):
        x, kernel = saved
        kh, kw = kernel.shape[:2]
        xp = padded(x)
        dy32 = dy.astype("float32")
        taps = _windows(xp, dy.shape[1:3], (kh, kw), strides, dilation_rate)
        dk = jnp.stack([jnp.sum(window.astype("float32") * dy32, axis=(0, 1, 2)) for _, window in taps])
        # The gradient of the input is the transposed convolution: dy, spread out by the stride, meets the flipped kernel.
        spans = [(k - 1) * d for k, d in zip((kh, kw), dilation_rate, strict=True)]
        spread = [(n - 1) * s + 1 for n, s in zip(dy.shape[1:3], strides, strict=True)]
        tail = [xp.shape[a + 1] - spread[a] for a in (0, 1)]  # >= spans[a]: rows that no window reaches get zeros
        config = [(0, 0, 0), *((spans[a], tail[a], strides[a] - 1) for a in (0, 1)), (0, 0, 0)]
        around = lax.pad(dy32, jnp.zeros((), "float32"), config)
        back = _windows(around, xp.shape[1:3], (kh, kw), (1, 1), dilation_rate)
        dx = sum(window * kernel[kh - 1 - i, kw - 1 - j, :, 0] for (i, j), window in back)
        (top, _), (left, _) = pads
        dx = dx[:, top : top + x.shape[1], left : left + x.shape[2]]
        return dx.astype(x.dtype), dk.reshape(kernel.shape).astype(kernel.dtype)

    shifts.defvjp(forward, backward)

    def library(x, kernel):
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation_rate,
            dimension_numbers=_NHWC,
            feature_group_count=x.shape[3],
        )

    return lambda x, kernel: lax.platform_dependent(x, kernel, cpu=shifts, default=library)
