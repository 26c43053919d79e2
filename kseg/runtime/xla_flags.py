"""What kseg's commands ask of XLA, JAX's compiler, by its environment variable XLA_FLAGS."""

import contextlib
import importlib.metadata
import os

from kseg.utils.system import usable_cores

OWN_ORDER = "xla_cpu_enable_concurrency_optimized_scheduler"
SEQUENTIAL = f"--{OWN_ORDER}=false"
"""A CPU's program is ordered for less memory, not for as much as possible at the same time."""
KNOWN_SINCE, UNKNOWN_SINCE = (0, 6), (0, 13)
"""The versions of jaxlib from which on it knows the flag, and from which on nobody looked: one that does not know it ends the
process."""
MOST_CORES = 4
"""With more, the order for concurrency may gain time. Measured on two: docs/performance.md."""


def xla_flags_and(flags: str) -> str:
    """Returns the environment's XLA_FLAGS with others behind them, of which the last of a name holds."""
    return " ".join(filter(None, (os.environ.get("XLA_FLAGS"), flags)))


def order_for_memory() -> None:
    """Adds SEQUENTIAL to XLA_FLAGS, unless they say something of it, on a machine of few cores. For programs, not for libraries:
    it holds for the process and those that it starts, and only where JAX has not computed anything yet.
    """
    said = OWN_ORDER in os.environ.get("XLA_FLAGS", "")
    if not said and usable_cores() <= MOST_CORES and KNOWN_SINCE <= _jaxlib() < UNKNOWN_SINCE:
        os.environ["XLA_FLAGS"] = xla_flags_and(SEQUENTIAL)


def _jaxlib():
    """Its version's first two numbers; (0, 0) where it is not installed or calls itself something else."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    return 0, 0
