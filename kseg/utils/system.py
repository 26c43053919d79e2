"""Hides installed packages, and counts CPU cores."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Hides packages inside the block: importing one raises ModuleNotFoundError unless it was imported before.

    A None in sys.modules would also do this, but some libraries look there for imported packages and fail on None.
    """
    finders = sys.meta_path[:]
    sys.meta_path[:] = [_Without(finder, packages) for finder in finders]
    try:
        yield
    finally:
        sys.meta_path[:] = finders


class _Without:
    """Wraps a finder of sys.meta_path and finds nothing of the hidden packages."""

    def __init__(self, finder: Any, packages: tuple[str, ...]):
        self._finder, self._packages = finder, packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._packages else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use. In a container it can be less than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
