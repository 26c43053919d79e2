"""Bilinear and nearest resizing of maps [B, H, W, C], equal to PyTorch's interpolate, with gradients cheap on every device."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops


def resize_nearest(x: Any, size: Any) -> Any:
    """Nearest resize of x [B, h, w, C] to size (H, W), ints or int scalars of the backend. Returns [B, H, W, C].

    Row i of the result is row floor(i * h / H) of x: torch's interpolate(mode="nearest").
    """
    return _resize_axis(_resize_axis(x, 1, size[0]), 2, size[1])


def _resize_axis(x: Any, axis: int, target: Any) -> Any:
    """resize_nearest along one axis."""
    source = ops.shape(x)[axis]
    if isinstance(source, int) and isinstance(target, int):
        if source == target:
            return x
        if source == (target + 1) // 2:  # floor(i * source / target) is i // 2: repeat's gradient needs no scatter
            return ops.repeat(x, 2, axis=axis)[(slice(None),) * axis + (slice(0, target),)]
    return ops.take(x, ops.arange(target) * source // target, axis=axis)


def resize_bilinear(x: Any, size: Any, *, align_corners: bool) -> Any:
    """Bilinear resize without antialiasing, as two matrix products, whose gradients are cheap on every device.

    x: [B, h, w, C]. size: (H, W), ints or int scalars of the backend. align_corners: as in torch's interpolate.
    Returns [B, H, W, C] of x's dtype.
    """
    if all(isinstance(n, int) for n in size) and tuple(size) == tuple(ops.shape(x)[1:3]):
        return x
    rows = interpolation(ops.shape(x)[1], size[0], align_corners, x.dtype)
    columns = interpolation(ops.shape(x)[2], size[1], align_corners, x.dtype)
    return resize_by(rows, columns, x)


def resize_tile(x: Any, size: Any, start: Any, tile: tuple[int, int]) -> Any:
    """Returns a tile of x resized to `size`: bilinear, half-pixel centres, without antialiasing. For inference.

    Each pixel is computed from its four neighbours, so it does not depend on the tile that it is in. Every size has the same
    program. x: [h, w, C] float32. size, start: int32 [2]: (height, width) of the whole result, and the first (row, column) of the
    tile. Returns [*tile, C]; pixels beyond `size` repeat the edge.
    """
    for axis in (0, 1):
        source = x.shape[axis]
        index = ops.cast(start[axis] + ops.arange(tile[axis], dtype="int32"), "float32")
        position = ops.clip((index + 0.5) * (float(source) / ops.cast(size[axis], "float32")) - 0.5, 0.0, source - 1)
        first = ops.minimum(ops.floor(position), max(source - 2, 0))
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        pair = []
        for neighbour in (first, first + 1):
            weight = ops.maximum(0.0, 1.0 - ops.abs(position - neighbour))
            values = ops.take(x, ops.cast(ops.minimum(neighbour, source - 1), "int32"), axis=axis)
            pair.append(values * ops.reshape(weight, shape))
        x = pair[0] + pair[1]
    return x


def resize_by(rows: Any, columns: Any, x: Any) -> Any:
    """Resizes x [B, h, w, C] to [B, H, W, C] by the interpolation matrices rows [H, h] and columns [W, w]."""
    with _full_precision():
        x = ops.einsum("Hh,bhwc->bHwc", rows, x)
        return ops.einsum("Ww,bhwc->bhWc", columns, x)


def interpolation(source: Any, target: Any, align_corners: bool, dtype: str) -> Any:
    """Returns the matrix [target, source] that resizes a line of `source` pixels to `target` pixels."""
    static = isinstance(source, int) and isinstance(target, int)
    xp: Any = np if static else ops  # static sizes: numpy in float64, which are constants to XLA
    real = "float64" if static else "float32"
    index = xp.cast(xp.arange(target), real) if not static else np.arange(target, dtype=real)
    n, m = (float(source), float(target)) if static else (ops.cast(source, real), ops.cast(target, real))
    if align_corners:
        position = index * ((n - 1) / xp.maximum(m - 1, 1.0))
    else:
        position = (index + 0.5) * (n / m) - 0.5
    position = xp.clip(position, 0.0, n - 1)
    nodes = np.arange(source, dtype=real) if static else ops.cast(ops.arange(source), real)
    weights = xp.maximum(0.0, 1.0 - xp.abs(position[:, None] - nodes[None, :]))
    return ops.convert_to_tensor(weights, dtype) if static else ops.cast(weights, dtype)


def region_means(source: Any, bins: int, dtype: str) -> Any:
    """Returns the matrix [bins, source] that averages a line of `source` pixels over `bins` regions.

    Region i is from floor(i * source / bins) to before ceil((i + 1) * source / bins), as in torch's adaptive pooling.
    """
    static = isinstance(source, int)
    xp: Any = np if static else ops
    index = np.arange(bins) if static else ops.arange(bins)
    first, last = index * source // bins, ((index + 1) * source + bins - 1) // bins
    pixels = np.arange(source) if static else ops.arange(source)
    inside = xp.logical_and(pixels[None, :] >= first[:, None], pixels[None, :] < last[:, None])
    if static:
        return ops.convert_to_tensor(inside / (last - first)[:, None], dtype)
    return ops.cast(inside, dtype) / ops.cast(last - first, dtype)[:, None]


def _full_precision():
    """Keeps accelerators from rounding interpolation weights to TF32 or bfloat16, their default for float32 products."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()
