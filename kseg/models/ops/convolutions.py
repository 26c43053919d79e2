"""Convolutions and max pooling that are fast on CPUs under JAX. Results differ from XLA's by float32 rounding only.

On a CPU, XLA's own operations are slow: 30 to 100 times for grouped and depthwise convolutions, 2 to 7 times for 1x1, 2 to 30
times where much of the kernel lies beyond a small map (ASPP's dilations, FCN's 7x7), 7 times for the gradient of a max pool. Here
they become, in this order, convolutions of blocks of groups, sums of shifted products, matrix products, a matrix product for each
tap of the kernel, and choices between shifted windows. The gradient of a depthwise kernel is a loop over its taps.

GPUs and TPUs use XLA's operations, except dilated depthwise convolutions on CUDA: cuDNN takes 4 to 10 times as long as shifted
products. `by_platform` chooses while a program is lowered, so one jitted function serves every platform. The other
Keras backends always use their own operations.
"""

import functools
import math
import operator
from functools import cache
from typing import Any

import keras
import numpy as np

from kseg.models.ops.geometry import Geometry, pads_of
from kseg.models.ops.platforms import by_platform, is_symbolic


def depthwise_conv2d(inputs: Any, kernel: Any, *, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Depthwise convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C, M]. strides, dilation_rate: (rows, columns). padding: "valid" or "same" (as in
    Keras, the far side gets more). Returns [B, H', W', C * M] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() != "jax" or kernel.shape[-1] != 1:
        return keras.ops.depthwise_conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)
    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    inputs, pads = _padded(inputs, kernel.shape[:2], strides, padding, dilation_rate)
    return _jax_depthwise(strides, pads, dilation_rate)(inputs, kernel)


def pointwise_conv2d(inputs: Any, kernel: Any, *, strides=(1, 1)) -> Any:
    """1x1 convolution. inputs: [B, H, W, C], kernel: [1, 1, C, D]. strides: (rows, columns). Returns [B, H', W', D]."""
    strides = tuple(strides)
    if keras.backend.backend() != "jax":
        return keras.ops.conv(inputs, kernel, strides=strides, padding="valid")
    import jax

    def product(x, k):
        x = x[:, :: strides[0], :: strides[1]]
        return jax.numpy.dot(x.reshape(-1, x.shape[-1]), k[0, 0]).reshape(*x.shape[:-1], k.shape[-1])

    def library(x, k):
        return jax.lax.conv_general_dilated(x, k, strides, "VALID", dimension_numbers=_NHWC)

    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    return by_platform(inputs, kernel, cpu=product, default=library)


def grouped_conv2d(inputs: Any, kernel: Any, *, groups: int, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Grouped convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C / groups, D]. strides, dilation_rate: (rows, columns). padding: "valid" or "same".
    Returns [B, H', W', D] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() != "jax":
        return keras.ops.conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)
    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    inputs, pads = _padded(inputs, kernel.shape[:2], strides, padding, dilation_rate)
    return _jax_grouped(groups, strides, pads, dilation_rate)(inputs, kernel)


def conv2d(inputs: Any, kernel: Any, *, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C, D]. strides, dilation_rate: (rows, columns). padding: "valid" or "same".
    Returns [B, H', W', D] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() == "jax" and all(isinstance(length, int) for length in inputs.shape[1:3]):
        pads = pads_of(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)
        if _by_taps_is_faster(Geometry(strides, pads, dilation_rate), inputs.shape[1:3], kernel.shape):
            inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
            return _jax_by_taps(strides, pads, dilation_rate)(inputs, kernel)
    where = {"padding": padding, "data_format": "channels_last", "dilation_rate": dilation_rate}
    return keras.ops.conv(inputs, kernel, strides=strides, **where)


def _padded(x, kernel_size, strides, padding, dilation_rate):
    """Returns x and the padding that is left to the convolution: none, if it depends on a size that is not known yet."""
    pads = pads_of(x.shape[1:3], kernel_size, strides, padding, dilation_rate)
    if not any(is_symbolic(pad) for side in pads for pad in side):
        return x, pads
    from jax import lax

    return lax.pad(x, x.dtype.type(0), [(0, 0, 0), *((*side, 0) for side in pads), (0, 0, 0)]), ((0, 0), (0, 0))


def max_pool2d(inputs: Any, pool_size: tuple[int, int], strides: tuple[int, int]) -> Any:
    """Max pool without padding. inputs: [B, H, W, C]. Returns [B, H', W', C]. The first of equal maxima gets the gradient."""
    if keras.backend.backend() != "jax":
        return keras.ops.max_pool(inputs, pool_size, strides, padding="valid")
    return _jax_max_pool(tuple(pool_size), tuple(strides))(keras.ops.convert_to_tensor(inputs))


_NHWC = ("NHWC", "HWIO", "NHWC")


@cache
def _jax_max_pool(pool_size, strides):
    """Returns f(x [B, H, W, C]); cached, so that jit's caches hit."""
    import jax
    import jax.numpy as jnp

    geometry = Geometry(strides, ((0, 0), (0, 0)), (1, 1))

    def library(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *pool_size, 1), (1, *strides, 1), "VALID")

    def choose(best, window):
        return jnp.where((window > best) | (window != window), window, best)  # nan counts as the largest, as in XLA

    def shifts(x):
        return functools.reduce(choose, (window for _, window in geometry.gather_inputs(x, pool_size)))

    on_cpu = jax.custom_vjp(library)  # XLA's forward pass is the faster one
    on_cpu.defvjp(lambda x: (library(x), x), lambda x, dy: jax.vjp(shifts, x)[1](dy))
    return lambda x: by_platform(x, cpu=on_cpu, default=library)


@cache
def _jax_depthwise(strides, pads, dilation_rate):
    """Returns f(x [B, H, W, C], kernel [kh, kw, C, 1]); cached, so that jit's caches hit."""
    import jax.numpy as jnp
    from jax import lax

    geometry = Geometry(strides, pads, dilation_rate)

    def convolve(x, kernel):
        taps = geometry.gather_inputs(x, kernel.shape[:2])
        return _total(window.astype("float32") * kernel[i, j, :, 0] for (i, j), window in taps).astype(x.dtype)

    def backward(saved, dy):
        x, kernel = saved
        dy, size = dy.astype("float32"), kernel.shape[:2]
        outputs = geometry.gather_outputs(dy, size, x.shape[1:3])
        dx = _total(window * kernel[i, j, :, 0] for (i, j), window in outputs)
        dk = by_platform(x, dy, kernel, cpu=tap_after_tap, default=all_taps)
        return dx.astype(x.dtype), dk

    def total(window, dy):
        return jnp.sum(window.astype("float32") * dy, axis=(0, 1, 2))

    def all_taps(x, dy, kernel):
        inputs = geometry.gather_inputs(x, kernel.shape[:2])
        return _kernel_of({tap: total(window, dy) for tap, window in inputs}, kernel)

    def tap_after_tap(x, dy, kernel):  # in a loop, which XLA compiles once: CPUs run and compile it several times as fast
        taps, places, window = geometry.input_windows(x, kernel.shape[:2])
        totals = lax.map(lambda place: total(window(place), dy), places)
        return _kernel_of(dict(zip(taps, totals, strict=True)), kernel)

    return _on_each_platform(geometry, convolve, backward, groups=None, on_cuda=max(dilation_rate) > 1)


def _by_taps_is_faster(geometry, size, kernel_shape) -> bool:
    """Returns True if a CPU is faster tap by tap, as measured: with many channels, and a large kernel or a quarter of padding."""
    *kernel_size, channels, filters = kernel_shape
    rows, columns = geometry.output_size(size, kernel_size)
    if min(kernel_size) == 1 or min(channels, filters) < 128 or min(rows, columns) < 1:
        return False
    if min(kernel_size) >= 5:
        return True
    useful = sum((a.stop - a.start) * (b.stop - b.start) for _, _, (a, b) in geometry.overlaps(size, kernel_size))
    return useful <= 0.75 * math.prod(kernel_size) * rows * columns


@cache
def _jax_by_taps(strides, pads, dilation_rate):
    """Returns f(x [B, H, W, C], kernel [kh, kw, C, D]); cached, so that jit's caches hit.

    On CPUs it is a sum of matrix products: for each tap, its kernel with the pixels that it multiplies, without padding.
    """
    from jax import lax

    geometry = Geometry(strides, pads, dilation_rate)

    def product(a, b, axes):  # in float32, summed over `axes` of a and b
        return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type="float32")

    def place(part, where, size):  # zeros of `size`, with `part` at `where`
        spread = [(line.start, length - line.stop, line.step - 1) for line, length in zip(where, size, strict=True)]
        return lax.pad(part, part.dtype.type(0), [(0, 0, 0), *spread, (0, 0, 0)])

    def convolve(x, kernel):
        size = geometry.output_size(x.shape[1:3], kernel.shape[:2])
        overlaps = geometry.overlaps(x.shape[1:3], kernel.shape[:2])
        terms = (place(product(x[:, a, b], kernel[tap], ([3], [0])), where, size) for tap, (a, b), where in overlaps)
        return _total(terms).astype(x.dtype)

    def backward(saved, dy):
        x, kernel = saved
        dx, dk = [], {}
        for tap, where, (c, d) in geometry.overlaps(x.shape[1:3], kernel.shape[:2]):
            dx.append(place(product(dy[:, c, d], kernel[tap], ([3], [1])), where, x.shape[1:3]))
            dk[tap] = product(x[:, *where], dy[:, c, d], ([0, 1, 2], [0, 1, 2]))
        return _total(dx).astype(x.dtype), _kernel_of(dk, kernel)

    return _on_each_platform(geometry, convolve, backward, 1)


@cache
def _jax_grouped(groups, strides, pads, dilation_rate):
    """Returns f(x [B, H, W, C], kernel [kh, kw, C / groups, D]); cached, so that jit's caches hit.

    On CPUs groups form blocks. Each block is an ordinary convolution, its kernel zero between groups: several times the products,
    each many times as fast. A value that is not finite spreads to the other groups of its block.
    """
    import jax
    import jax.numpy as jnp

    geometry = Geometry(strides, pads, dilation_rate)

    def convolve(x, kernel):
        together = _groups_per_block(groups, kernel.shape[2])
        kernels = _blocks(kernel.astype("float32"), groups, together)
        parts = jnp.split(x.astype("float32"), groups // together, axis=3)
        results = [_library(geometry, part, kernels[:, :, :, block], 1) for block, part in enumerate(parts)]
        return jnp.concatenate(results, axis=3).astype(x.dtype)

    def backward(saved, dy):
        return jax.vjp(convolve, *saved)[1](dy)

    return _on_each_platform(geometry, convolve, backward, groups)


def _groups_per_block(groups: int, channels: int) -> int:
    """Returns how many groups form a block: the fewest with 32 channels or more, in at most 16 blocks, as XLA compiles each."""
    divisors = (count for count in range(1, groups) if groups % count == 0)
    return next((count for count in divisors if count * channels >= 32 and groups // count <= 16), groups)


def _blocks(kernel: Any, groups: int, together: int) -> Any:
    """Makes [kh, kw, together * c, groups / together, together * d], zero between groups, of a kernel [kh, kw, c, groups * d]."""
    import jax.numpy as jnp

    height, width, channels, _ = kernel.shape
    split = kernel.reshape(height, width, channels, groups // together, together, -1)
    blocks = jnp.einsum("hwcbgd,ig->hwicbgd", split, jnp.eye(together, dtype=kernel.dtype))
    return blocks.reshape(height, width, together * channels, groups // together, -1)


def _on_each_platform(geometry, convolve, backward, groups, on_cuda=False):
    """Returns a convolution f(x, kernel): `convolve` on CPUs, on NVIDIA GPUs too if on_cuda, and XLA's own elsewhere.

    backward((x, kernel), dy): the gradients of `convolve`. groups: for XLA's convolution; None for one per channel.
    """
    import jax

    ours = jax.custom_vjp(convolve)
    ours.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    platforms = dict.fromkeys(("cpu", "cuda") if on_cuda else ("cpu",), ours)

    def library(x, kernel):
        return _library(geometry, x, kernel, groups or x.shape[3])

    return lambda x, kernel: by_platform(x, kernel, **platforms, default=library)


def _library(geometry, x, kernel, groups):
    """XLA's own convolution."""
    from jax import lax

    return lax.conv_general_dilated(
        x,
        kernel.reshape(*kernel.shape[:2], x.shape[3] // groups, -1),
        geometry.strides,
        geometry.pads,
        rhs_dilation=geometry.dilation_rate,
        dimension_numbers=_NHWC,
        feature_group_count=groups,
    )


def _total(terms):
    """Returns the sum of one or more terms."""
    return functools.reduce(operator.add, terms)


def _kernel_of(taps, kernel):
    """Stacks float32 taps, by place (i, j), to a kernel of the shape and dtype of `kernel`; missing taps are zeros."""
    import jax.numpy as jnp

    nothing = jnp.zeros_like(next(iter(taps.values())))
    stacked = jnp.stack([taps.get(tap, nothing) for tap in np.ndindex(*kernel.shape[:2])])
    return stacked.reshape(kernel.shape).astype(kernel.dtype)
