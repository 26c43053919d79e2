"""Registries: tables from names to the functions that build models, backbones, losses and so on."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kseg.utils.errors import KsegError, suggest


@dataclass(frozen=True)
class Entry:
    """A registered function and the keywords registered with it."""

    name: str
    build: Callable[..., Any]
    info: dict[str, Any] = field(default_factory=dict)


class Registry:
    """A table from names to functions. kind: "model", "backbone", ..., for error messages."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, build: Callable[..., Any], **info: Any) -> None:
        """Adds a function. Raises RuntimeError if the name is taken."""
        if name in self._entries:
            raise RuntimeError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = Entry(name, build, info)

    def register(self, name: str | None = None, **info: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Returns a decorator that calls `add`. name: by default the function's name."""

        def decorate(build: Callable[..., Any]) -> Callable[..., Any]:
            self.add(name or build.__name__, build, **info)
            return build

        return decorate

    def __getitem__(self, name: str) -> Entry:
        """Returns the entry. Raises KsegError with similar names if `name` is not registered."""
        if name not in self._entries:
            raise KsegError(f"unknown {self.kind} {name!r}{suggest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))


def import_modules(package: str) -> None:
    """Imports every module of a package, so that a new file registers its functions without being listed anywhere."""
    path = importlib.import_module(package).__path__
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")
