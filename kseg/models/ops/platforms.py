"""Chooses an operation by the platform that runs a program of JAX, and computes with sizes that are not known yet."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def by_platform(*args: Any, default: Callable[..., Any], **branches: Callable[..., Any]) -> Any:
    """Calls `default`, or one of the branches by a platform's name, on JAX arrays: jax.lax.platform_dependent.

    One program serves every platform. With symbolic sizes (jax.export), two branches may write the same size as different
    formulas, (n + 1) // 2 and (n - 1) // 2 + 1, which JAX refuses. Then all are written as the default's.
    """
    import jax

    if not any(map(is_symbolic, (side for value in args for side in value.shape))):
        return jax.lax.platform_dependent(*args, default=default, **branches)
    shape = jax.eval_shape(default, *args).shape

    def with_shape(branch: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: written_as(shape, branch(*args))

    return jax.lax.platform_dependent(*args, default=default, **{name: with_shape(branch) for name, branch in branches.items()})


def written_as(shape: tuple[Any, ...], x: Any) -> Any:
    """Returns x with its symbolic shape written as `shape`, other formulas of the same values; any other x as it is.

    It is padded by the difference, which is 0 when the sizes are known.
    """
    if x.shape == shape or not any(map(is_symbolic, shape)):
        return x
    import jax

    return jax.lax.pad(x, x.dtype.type(0), [(0, side - own, 0) for side, own in zip(shape, x.shape, strict=True)])


def is_symbolic(side: Any) -> bool:
    """Returns True for a side of a map that has a name and no value yet, as jax.export has them."""
    return not isinstance(side, int) and keras.backend.backend() == "jax"


def at_least(side: Any, least: int) -> Any:
    """Returns the maximum of a side of a map and a number. side: an int, a symbol of jax.export, or a scalar of the backend."""
    if isinstance(side, int):
        return max(side, least)
    if is_symbolic(side):
        import jax

        return jax.core.max_dim(side, least)
    return ops.maximum(side, least)


def computed_once(x: Any) -> Any:
    """Returns x [B, H, W, C], and keeps XLA from computing it again for each use on a CPU.

    There XLA writes elementwise operations and shifted products into every operation that uses them, so a chain of sums computes
    its start over and over: 2 to 10 times the time in MobileOne. A condition that is not known before is a border for it, unlike
    jax.lax.optimization_barrier, which its CPU compiler removes early. If the first value is NaN, all become NaN.
    """
    if keras.backend.backend() != "jax":
        return x
    import jax

    def bordered(x: Any) -> Any:
        first = x[(0,) * x.ndim]
        return jax.lax.cond(first == first, lambda x: x, lambda x: x * x.dtype.type("nan"), x)

    return by_platform(x, cpu=bordered, default=lambda x: x)
