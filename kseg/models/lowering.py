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
import itertools
import math
import operator
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np


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
    pads = _pads(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)
    return _jax_grouped(groups, strides, pads, dilation_rate)(inputs, kernel)


def conv2d(inputs: Any, kernel: Any, *, strides=(1, 1), padding="valid", dilation_rate=(1, 1)) -> Any:
    """Convolution, channels last.

    inputs: [B, H, W, C]. kernel: [kh, kw, C, D]. strides, dilation_rate: (rows, columns). padding: "valid" or "same".
    Returns [B, H', W', D] of inputs' dtype.
    """
    strides, dilation_rate = tuple(strides), tuple(dilation_rate)
    if keras.backend.backend() == "jax" and all(isinstance(length, int) for length in inputs.shape[1:3]):
        pads = _pads(inputs.shape[1:3], kernel.shape[:2], strides, padding, dilation_rate)
        if _by_taps_is_faster(_Geometry(strides, pads, dilation_rate), inputs.shape[1:3], kernel.shape):
            inputs, kernel = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel)
            return _jax_by_taps(strides, pads, dilation_rate)(inputs, kernel)
    return keras.ops.conv(inputs, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate)


def max_pool2d(inputs: Any, pool_size: tuple[int, int], strides: tuple[int, int]) -> Any:
    """Max pool without padding. inputs: [B, H, W, C]. Returns [B, H', W', C]. Of equal values the first is given the gradient."""
    if keras.backend.backend() != "jax":
        return keras.ops.max_pool(inputs, pool_size, strides, padding="valid")
    return _jax_max_pool(tuple(pool_size), tuple(strides))(keras.ops.convert_to_tensor(inputs))


_NHWC = ("NHWC", "HWIO", "NHWC")


class _Geometry(NamedTuple):
    """Where a convolution's taps lie. pads: ((top, bottom), (left, right))."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation_rate: tuple[int, int]

    def output_size(self, size, kernel_size):
        """Rows and columns that come out of an input of `size`."""
        spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, self.dilation_rate, strict=True)]
        padded = [n + sum(pads) for n, pads in zip(size, self.pads, strict=True)]
        return [(n - span) // s + 1 for n, span, s in zip(padded, spans, self.strides, strict=True)]

    def met(self, x, kernel_size):
        """Yields ((i, j), the pixels of x [B, H, W, C] that tap (i, j) meets [B, H', W', C]), zeros where it meets padding."""
        starts = [
            [i * d - before for i in range(k)]
            for k, d, (before, _) in zip(kernel_size, self.dilation_rate, self.pads, strict=True)
        ]
        return _shifted(x, starts, self.output_size(x.shape[1:3], kernel_size), self.strides)

    def met_by(self, y, kernel_size, size):
        """Yields ((i, j), the results y [B, H', W', D] that met a pixel by tap (i, j) [B, *size, D]), zeros where none did."""
        from jax import lax

        spread = [(0, 0, 0), *((0, 0, stride - 1) for stride in self.strides), (0, 0, 0)]
        y = lax.pad(y, y.dtype.type(0), spread) if max(self.strides) > 1 else y
        starts = [
            [before - i * d for i in range(k)]
            for k, d, (before, _) in zip(kernel_size, self.dilation_rate, self.pads, strict=True)
        ]
        return _shifted(y, starts, size, (1, 1))

    def overlaps(self, size, kernel_size):
        """Yields ((i, j), (rows, columns) of an input of `size`, (rows, columns) of the result that tap (i, j) brings together),
        slices all; taps that only ever meet padding are left out.
        """
        lines = zip(
            size, self.output_size(size, kernel_size), kernel_size, self.strides, self.pads, self.dilation_rate, strict=True
        )
        rows, columns = (list(_overlaps_of_a_line(*line)) for line in lines)
        for (i, row_in, row_out), (j, column_in, column_out) in itertools.product(rows, columns):
            yield (i, j), (row_in, column_in), (row_out, column_out)


def _overlaps_of_a_line(length, results, taps, stride, pads, dilation):
    """Yields (tap, slice of the input, slice of the result) for one axis."""
    for tap in range(taps):
        shift = tap * dilation - pads[0]
        first, last = max(0, -(shift // stride)), min(results - 1, (length - 1 - shift) // stride)
        if first <= last:
            yield tap, slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1)


def _shifted(x, starts, size, strides):
    """Yields ((i, j), rows starts[0][i] + n * strides[0] and columns starts[1][j] + n * strides[1] of x [B, H, W, C], as many as
    size says), zeros beyond x's edges. Left out are those that would be all zeros: many of a dilation wider than x.
    """
    from jax import lax

    spans = [(n - 1) * stride for n, stride in zip(size, strides, strict=True)]
    inside = [
        [(i, start) for i, start in enumerate(starts[axis]) if -spans[axis] <= start < x.shape[axis + 1]] for axis in (0, 1)
    ]
    pads = [(0, 0)] * 4
    for axis in (0, 1):
        places = [start for _, start in inside[axis]] or [0]
        pads[axis + 1] = max(0, -min(places)), max(0, max(places) + spans[axis] + 1 - x.shape[axis + 1])
    if any(map(any, pads)):
        x = lax.pad(x, x.dtype.type(0), [(*pad, 0) for pad in pads])
    for i, row in inside[0]:
        for j, column in inside[1]:
            top, left = row + pads[1][0], column + pads[2][0]
            limits = (x.shape[0], top + spans[0] + 1, left + spans[1] + 1, x.shape[3])
            yield (i, j), lax.slice(x, (0, top, left, 0), limits, (1, *strides, 1))


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
def _jax_max_pool(pool_size, strides):
    """Returns f(x [B, H, W, C]); one object for each geometry, so that jit's caches hit."""
    import jax
    import jax.numpy as jnp

    geometry = _Geometry(strides, ((0, 0), (0, 0)), (1, 1))

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

    geometry = _Geometry(strides, pads, dilation_rate)

    def convolve(x, kernel):
        taps = geometry.met(x, kernel.shape[:2])
        return _total(window.astype("float32") * kernel[i, j, :, 0] for (i, j), window in taps).astype(x.dtype)

    def backward(saved, dy):
        x, kernel = saved
        dy, size = dy.astype("float32"), kernel.shape[:2]
        met = geometry.met_by(dy, size, x.shape[1:3])
        dx = _total(window * kernel[i, j, :, 0] for (i, j), window in met)
        taps = {tap: jnp.sum(window.astype("float32") * dy, axis=(0, 1, 2)) for tap, window in geometry.met(x, size)}
        nothing = jnp.zeros(kernel.shape[2], "float32")
        dk = jnp.stack([taps.get(tap, nothing) for tap in np.ndindex(*size)])
        return dx.astype(x.dtype), dk.reshape(kernel.shape).astype(kernel.dtype)

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
    import jax.numpy as jnp
    from jax import lax

    geometry = _Geometry(strides, pads, dilation_rate)

    def product(a, b, over):  # of [.., M] and [.., N] over the axes named, in float32
        return lax.dot_general(a, b, ((over[0], over[1]), ((), ())), preferred_element_type="float32")

    def place(part, where, size):  # zeros of `size` but for `part`
        spread = [(line.start, length - line.stop, (line.step or 1) - 1) for line, length in zip(where, size, strict=True)]
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
        nothing = jnp.zeros(kernel.shape[2:], "float32")
        dk = jnp.stack([dk.get(tap, nothing) for tap in np.ndindex(*kernel.shape[:2])])
        return _total(dx).astype(x.dtype), dk.reshape(kernel.shape).astype(kernel.dtype)

    return _on_each_platform(geometry, convolve, backward, 1)


@cache
def _jax_grouped(groups, strides, pads, dilation_rate):
    """Returns f(x [B, H, W, C], kernel [kh, kw, C / groups, D]); one object for each geometry, so that jit's caches hit.

    On CPUs groups are put together to blocks of some channels, each an ordinary convolution whose kernel has zeros between the
    groups: several times the products, each many times as fast. (What is not finite in one group reaches its block's others.)
    """
    import jax
    import jax.numpy as jnp

    geometry = _Geometry(strides, pads, dilation_rate)

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
