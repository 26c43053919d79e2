"""Doing without packages although they are installed."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Within, packages that were not imported before count as not installed: to import one raises ModuleNotFoundError, and to
    look for it finds nothing.

    A None in sys.modules would do so, too, but libraries that look there whether a package was imported do not expect one.
    """
    finders = sys.meta_path[:]
    sys.meta_path[:] = [_Without(finder, packages) for finder in finders]
    try:
        yield
    finally:
        sys.meta_path[:] = finders


class _Without:
    """A finder of modules that does not find those of some packages."""

    def __init__(self, finder: Any, packages: tuple[str, ...]):
        self._finder, self._packages = finder, packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._packages else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def usable_cores() -> int:
    """Returns how many cores this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
