"""Index arithmetic of convolutions: which input and output pixels each tap (i, j) of a kernel connects."""

import itertools
from typing import NamedTuple

from kseg.models.ops.platforms import at_least, is_symbolic


class Geometry(NamedTuple):
    """Strides, padding and dilation of a convolution. pads: ((top, bottom), (left, right))."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation_rate: tuple[int, int]

    def output_size(self, size, kernel_size):
        """Returns the rows and columns of the output for an input of `size`."""
        spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, self.dilation_rate, strict=True)]
        padded = [n + sum(pads) for n, pads in zip(size, self.pads, strict=True)]
        return [(n - span) // s + 1 for n, span, s in zip(padded, spans, self.strides, strict=True)]

    def gather_inputs(self, x, kernel_size):
        """Yields ((i, j), [B, H', W', C]): the pixels of x [B, H, W, C] that tap (i, j) multiplies; padding is zeros."""
        return _shifted(x, self._starts(kernel_size), self.output_size(x.shape[1:3], kernel_size), self.strides)

    def input_windows(self, x, kernel_size):
        """Returns what gather_inputs yields as (taps (i, j), their places, f(place)), for loops in a compiled program.

        places: [taps, 2], whole numbers. f: from one of them, which may be traced, to [B, H', W', C].
        """
        import jax.numpy as jnp
        from jax import lax

        size = self.output_size(x.shape[1:3], kernel_size)
        x, corners = _padded(x, self._starts(kernel_size), size, self.strides)
        rows, columns = ((n - 1) * stride + 1 for n, stride in zip(size, self.strides, strict=True))

        def window(place):
            part = lax.dynamic_slice(x, (0, place[0], place[1], 0), (x.shape[0], rows, columns, x.shape[3]))
            return part[:, :: self.strides[0], :: self.strides[1]]

        return [*corners], jnp.array([*corners.values()]), window

    def _starts(self, kernel_size):
        """Returns the first row of the input that each row of the kernel multiplies, and the same for columns."""
        lines = zip(kernel_size, self.dilation_rate, self.pads, strict=True)
        return [[i * d - before for i in range(k)] for k, d, (before, _) in lines]

    def gather_outputs(self, y, kernel_size, size):
        """Yields ((i, j), [B, *size, D]): for each input pixel, the pixel of y [B, H', W', D] to which tap (i, j) adds it.

        Zeros where there is none. size: rows and columns of the input.
        """
        from jax import lax

        spread = [(0, 0, 0), *((0, 0, stride - 1) for stride in self.strides), (0, 0, 0)]
        y = lax.pad(y, y.dtype.type(0), spread) if max(self.strides) > 1 else y
        starts = [
            [before - i * d for i in range(k)]
            for k, d, (before, _) in zip(kernel_size, self.dilation_rate, self.pads, strict=True)
        ]
        return _shifted(y, starts, size, (1, 1))

    def overlaps(self, size, kernel_size):
        """Yields ((i, j), (rows, columns) of the input, (rows, columns) of the output), slices, for each tap (i, j).

        size: rows and columns of the input. Taps that only multiply padding are left out.
        """
        lines = zip(
            size, self.output_size(size, kernel_size), kernel_size, self.strides, self.pads, self.dilation_rate, strict=True
        )
        rows, columns = (list(_overlaps_of_a_line(*line)) for line in lines)
        for (i, row_in, row_out), (j, column_in, column_out) in itertools.product(rows, columns):
            yield (i, j), (row_in, column_in), (row_out, column_out)


def _overlaps_of_a_line(length, results, taps, stride, pads, dilation):
    """Yields (tap, slice of the input, slice of the output) for one axis."""
    for tap in range(taps):
        shift = tap * dilation - pads[0]
        first, last = max(0, -(shift // stride)), min(results - 1, (length - 1 - shift) // stride)
        if first <= last:
            yield tap, slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1, 1)


def _shifted(x, starts, size, strides):
    """Yields ((i, j), [B, *size, C]) with rows starts[0][i] + n * strides[0] and columns starts[1][j] + n * strides[1] of x.

    x: [B, H, W, C]. Zeros beyond the edges of x. Windows of zeros only are left out; a dilation wider than x has many.
    """
    from jax import lax

    x, corners = _padded(x, starts, size, strides)
    spans = [(n - 1) * stride for n, stride in zip(size, strides, strict=True)]
    for tap, (top, left) in corners.items():
        limits = (x.shape[0], top + spans[0] + 1, left + spans[1] + 1, x.shape[3])
        yield tap, lax.slice(x, (0, top, left, 0), limits, (1, *strides, 1))


def _padded(x, starts, size, strides):
    """Returns x with the zeros that the windows of _shifted reach, and where they begin in it: {(i, j): (row, column)}."""
    from jax import lax

    spans = [(n - 1) * stride for n, stride in zip(size, strides, strict=True)]
    inside = [
        [
            (i, start)
            for i, start in enumerate(starts[axis])
            if is_symbolic(x.shape[axis + 1]) or -spans[axis] <= start < x.shape[axis + 1]
        ]
        for axis in (0, 1)
    ]
    pads = [(0, 0)] * 4
    for axis in (0, 1):
        places = [start for _, start in inside[axis]] or [0]
        missing = max(places) + spans[axis] + 1 - x.shape[axis + 1]
        # Of an unknown number of pixels, lax.pad cuts off those that no window reaches.
        pads[axis + 1] = max(0, -min(places)), missing if is_symbolic(missing) else max(0, missing)
    if pads != [(0, 0)] * 4:
        x = lax.pad(x, x.dtype.type(0), [(*pad, 0) for pad in pads])
    corners = itertools.product(
        *([(i, start + pad[0]) for i, start in line] for line, pad in zip(inside, pads[1:3], strict=True))
    )
    return x, {(i, j): (row, column) for (i, row), (j, column) in corners}


def pads_of(size, kernel_size, strides, padding, dilation_rate):
    """Returns the padding of a convolution as ((top, bottom), (left, right)). padding: "valid" or "same", as in Keras."""
    if padding == "valid":
        return ((0, 0), (0, 0))
    pads = []
    for length, k, s, d in zip(size, kernel_size, strides, dilation_rate, strict=True):
        total = at_least((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)
