"""How a convolution, and the gradient of a max pool, are computed on each platform.

XLA's own convolution is 30 to 100 times slower than need be on a CPU when it is grouped or depthwise, 2 to 7 times when it is
1x1, and 2 to 30 times where much of the kernel lies beyond a small map (ASPP's dilations, FCN's 7x7); the gradient of its max
pool, 7 times. On JAX these functions compute them as sums of shifted products, as ordinary convolutions of blocks of groups, as
matrix products, or as a choice among shifted windows, when the program is lowered for a CPU, and leave GPU and TPU to the
library (`jax.lax.platform_dependent` chooses while lowering, so one jitted function serves every platform); but for depthwise
convolutions with a dilation, which cuDNN computes 4 to 10 times slower than shifted products. On the other Keras backends the
library's operation is used everywhere. Results differ from the library's by float32 rounding only.
"""

import functools
import math
import operator
from functools import cache
from typing import Any

import keras
import numpy as np

from kseg.models.ops.geometry import Geometry, pads_of


def depthwise_conv2d(inputs: Any, kernel: Any, *, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Depthwise convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C, M]. strides, dilation_rate: (rows, columns). padding: "valid" or "same" (the
    far side is padded more, as Keras does). Returns [B, H', W', C * M] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() != "jax" or kernel.shape[-1] != 1:
        return keras.ops.depthwise_conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)
    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    pads = pads_of(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)
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
    return jax.lax.platform_dependent(inputs, kernel, cpu=product, default=library)


def grouped_conv2d(inputs: Any, kernel: Any, *, groups: int, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Grouped convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C / groups, D]. strides, dilation_rate: (rows, columns). padding: "valid" or "same".
    Returns [B, H', W', D] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() != "jax":
        return keras.ops.conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)
    inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
    pads = pads_of(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)
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


def max_pool2d(inputs: Any, pool_size: tuple[int, int], strides: tuple[int, int]) -> Any:
    """Max pool without padding. inputs: [B, H, W, C]. Returns [B, H', W', C]. Of equal values the first is given the gradient."""
    if keras.backend.backend() != "jax":
        return keras.ops.max_pool(inputs, pool_size, strides, padding="valid")
    return _jax_max_pool(tuple(pool_size), tuple(strides))(keras.ops.convert_to_tensor(inputs))


_NHWC = ("NHWC", "HWIO", "NHWC")


@cache
def _jax_max_pool(pool_size, strides):
    """Returns f(x [B, H, W, C]); one object for each geometry, so that jit's caches hit."""
    import jax
    import jax.numpy as jnp

    geometry = Geometry(strides, ((0, 0), (0, 0)), (1, 1))

    def library(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *pool_size, 1), (1, *strides, 1), "VALID")

    def choose(best, window):
        return jnp.where((window > best) | (window != window), window, best)  # a nan is the largest, as in the library

    def shifts(x):
        return functools.reduce(choose, (window for _, window in geometry.met(x, pool_size)))

    on_cpu = jax.custom_vjp(library)  # forward the library is the faster one
    on_cpu.defvjp(lambda x: (library(x), x), lambda x, dy: jax.vjp(shifts, x)[1](dy))
    return lambda x: jax.lax.platform_dependent(x, cpu=on_cpu, default=library)


@cache
def _jax_depthwise(strides, pads, dilation_rate):
    """Returns f(x [B, H, W, C], kernel [kh, kw, C, 1]); one object for each geometry, so that jit's caches hit."""
    import jax.numpy as jnp

    geometry = Geometry(strides, pads, dilation_rate)

    def convolve(x, kernel):
        taps = geometry.met(x, kernel.shape[:2])
        return _total(window.astype("float32") * kernel[i, j, :, 0] for (i, j), window in taps).astype(x.dtype)

    def backward(saved, dy):
        x, kernel = saved
        dy, size = dy.astype("float32"), kernel.shape[:2]
        met = geometry.met_by(dy, size, x.shape[1:3])
        dx = _total(window * kernel[i, j, :, 0] for (i, j), window in met)
        taps = {tap: jnp.sum(window.astype("float32") * dy, axis=(0, 1, 2)) for tap, window in geometry.met(x, size)}
        return dx.astype(x.dtype), _kernel_of(taps, kernel)

    return _on_each_platform(geometry, convolve, backward, groups=None, on_cuda=max(dilation_rate) > 1)


def _by_taps_is_faster(geometry, size, kernel_shape) -> bool:
    """Whether a CPU computes a convolution faster tap by tap, as measured (docs/performance.md): with many channels, where a
    quarter of the products would be with padding, and where the kernel is large.
    """
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
    """Returns f(x [B, H, W, C], kernel [kh, kw, C, D]); one object for each geometry, so that jit's caches hit.

    On CPUs it is the sum over the kernel's taps of a matrix product of the pixels that meet the tap, and of no others.
    """
    from jax import lax

    geometry = Geometry(strides, pads, dilation_rate)

    def product(a, b, axes):  # summed over the axes of a and of b that are named, in float32
        return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type="float32")

    def place(part, where, size):  # zeros of `size` but for `part`
        spread = [(line.start, length - line.stop, line.step - 1) for line, length in zip(where, size, strict=True)]
        return lax.pad(part, part.dtype.type(0), [(0, 0, 0), *spread, (0, 0, 0)])

    def convolve(x, kernel):
        size = geometry.output_size(x.shape[1:3], kernel.shape[:2])
        met = geometry.overlaps(x.shape[1:3], kernel.shape[:2])
        terms = (place(product(x[:, a, b], kernel[tap], ([3], [0])), where, size) for tap, (a, b), where in met)
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
    """Returns f(x [B, H, W, C], kernel [kh, kw, C / groups, D]); one object for each geometry, so that jit's caches hit.

    On CPUs groups are put together to blocks of some channels, each an ordinary convolution whose kernel has zeros between the
    groups: several times the products, each many times as fast. (What is not finite in one group reaches its block's others.)
    """
    import jax
    import jax.numpy as jnp

    geometry = Geometry(strides, pads, dilation_rate)

    def convolve(x, kernel):
        together = _groups_in_a_block(groups, kernel.shape[2])
        kernels = _blocks(kernel.astype("float32"), groups, together)
        parts = jnp.split(x.astype("float32"), groups // together, axis=3)
        results = [_library(geometry, part, kernels[:, :, :, block], 1) for block, part in enumerate(parts)]
        return jnp.concatenate(results, axis=3).astype(x.dtype)

    def backward(saved, dy):
        return jax.vjp(convolve, *saved)[1](dy)

    return _on_each_platform(geometry, convolve, backward, groups)


def _groups_in_a_block(groups: int, channels: int) -> int:
    """How many groups of so many channels are computed together: as few as make blocks of 32 channels, and no more than 16
    blocks, each of which XLA compiles.
    """
    divisors = (count for count in range(1, groups) if groups % count == 0)
    return next((count for count in divisors if count * channels >= 32 and groups // count <= 16), groups)


def _blocks(kernel: Any, groups: int, together: int) -> Any:
    """Returns [kh, kw, together * c, groups / together, together * d] of a kernel [kh, kw, c, groups * d]: zeros from a group's
    inputs to another's outputs.
    """
    import jax.numpy as jnp

    height, width, channels, _ = kernel.shape
    split = kernel.reshape(height, width, channels, groups // together, together, -1)
    blocks = jnp.einsum("hwcbgd,ig->hwicbgd", split, jnp.eye(together, dtype=kernel.dtype))
    return blocks.reshape(height, width, together * channels, groups // together, -1)


def _on_each_platform(geometry, convolve, backward, groups, on_cuda=False):
    """Returns a convolution f(x, kernel): `convolve` on CPUs, and on NVIDIA's GPUs if on_cuda, the library's elsewhere.

    backward((x, kernel), dy): the gradients of both there, where x and kernel alone are kept for it. groups: the library's;
    None: one a channel.
    """
    import jax

    ours = jax.custom_vjp(convolve)
    ours.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    platforms = dict.fromkeys(("cpu", "cuda") if on_cuda else ("cpu",), ours)

    def library(x, kernel):
        return _library(geometry, x, kernel, groups or x.shape[3])

    return lambda x, kernel: jax.lax.platform_dependent(x, kernel, **platforms, default=library)


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
    """Their sum; there is one at least."""
    return functools.reduce(operator.add, terms)


def _kernel_of(taps, kernel):
    """A kernel like `kernel` of float32 taps by their places (i, j); zeros where there is none."""
    import jax.numpy as jnp

    nothing = jnp.zeros_like(next(iter(taps.values())))
    stacked = jnp.stack([taps.get(tap, nothing) for tap in np.ndindex(*kernel.shape[:2])])
    return stacked.reshape(kernel.shape).astype(kernel.dtype)
