"""Index arithmetic of convolutions: which input and output pixels each tap (i, j) of a kernel connects."""

import itertools
from typing import NamedTuple


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
        starts = [
            [i * d - before for i in range(k)]
            for k, d, (before, _) in zip(kernel_size, self.dilation_rate, self.pads, strict=True)
        ]
        return _shifted(x, starts, self.output_size(x.shape[1:3], kernel_size), self.strides)

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


def pads_of(size, kernel_size, strides, padding, dilation_rate):
    """Returns the padding of a convolution as ((top, bottom), (left, right)). padding: "valid" or "same", as in Keras."""
    if padding == "valid":
        return ((0, 0), (0, 0))
    pads = []
    for length, k, s, d in zip(size, kernel_size, strides, dilation_rate, strict=True):
        total = max((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)
