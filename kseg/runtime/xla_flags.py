"""Sets XLA_FLAGS, the environment variable with options for JAX's compiler."""

import contextlib
import importlib.metadata
import os

from kseg.utils.system import usable_cores

OWN_ORDER = "xla_cpu_enable_concurrency_optimized_scheduler"
SEQUENTIAL = f"--{OWN_ORDER}=false"
"""Makes XLA order a CPU program for low memory instead of concurrency."""
KNOWN_SINCE, UNKNOWN_SINCE = (0, 6), (0, 13)
"""The first jaxlib that knows the flag, and the first that was not checked. A jaxlib that does not know it aborts."""
MOST_CORES = 4
"""With more cores the order for concurrency may be faster. It was measured on two cores."""


def xla_flags_and(flags: str) -> str:
    """Returns the environment's XLA_FLAGS with `flags` appended; later flags override earlier ones."""
    return " ".join(filter(None, (os.environ.get("XLA_FLAGS"), flags)))


def order_for_memory() -> None:
    """Adds SEQUENTIAL to XLA_FLAGS on a machine of few cores, unless XLA_FLAGS already sets the option.

    For commands, not for libraries: it affects this process and those it starts, and only before JAX computes anything.
    """
    chosen = OWN_ORDER in os.environ.get("XLA_FLAGS", "")
    if not chosen and usable_cores() <= MOST_CORES and KNOWN_SINCE <= _jaxlib() < UNKNOWN_SINCE:
        os.environ["XLA_FLAGS"] = xla_flags_and(SEQUENTIAL)


def _jaxlib():
    """Returns jaxlib's version as (major, minor); (0, 0) if it is not installed or has an unusual version."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    return 0, 0
