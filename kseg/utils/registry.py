"""A table from names to builders; an unknown name raises with the nearest known ones."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kseg.utils.errors import KsegError, suggest


@dataclass(frozen=True)
class Entry:
    """A registered builder and the facts stated beside it."""

    name: str
    build: Callable[..., Any]
    info: dict[str, Any] = field(default_factory=dict)


class Registry:
    """Names of one kind ("model", "backbone", ...) and what builds them."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, build: Callable[..., Any], **info: Any) -> None:
        """Adds a builder. A name is given once: a second builder of the same name is a bug and raises."""
        if name in self._entries:
            raise RuntimeError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = Entry(name, build, info)

    def register(self, name: str | None = None, **info: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator form of `add`; the name defaults to the function's."""

        def decorate(build: Callable[..., Any]) -> Callable[..., Any]:
            self.add(name or build.__name__, build, **info)
            return build

        return decorate

    def __getitem__(self, name: str) -> Entry:
        """Raises KsegError with the nearest known names if `name` is not registered."""
        if name not in self._entries:
            raise KsegError(f"unknown {self.kind} {name!r}{suggest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


def import_modules(package: str) -> None:
    """Imports every module of a package, so that a new file registers what it defines without being listed anywhere."""
    path = importlib.import_module(package).__path__
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")
