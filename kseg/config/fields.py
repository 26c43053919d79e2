"""What the configs are made of: fields that carry their flag's help, and the checks they share."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from kseg.utils.errors import KsegError

Config = TypeVar("Config")
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""A repository of the Hub by its name, owner/name."""
COMPILATION_CACHE_AUTO, COMPILATION_CACHE_NONE = "auto", "none"


def field(default: Any, help: str, group: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field that becomes the flag of its name, listed under `group` by --help."""
    return dataclasses.field(default=default, metadata={"help": help, "group": group, "choices": choices})


def compilation_cache_field() -> Any:
    """--compilation_cache, which all that computes has."""
    return field(
        COMPILATION_CACHE_AUTO,
        "Folder that keeps compiled programs for later runs (JAX); auto: $KSEG_CACHE/xla, by default ~/.cache/kseg/xla; none: "
        "compile everything anew.",
        "devices",
    )


def parse_size(value: Any, flag: str = "image_size") -> tuple[int, int]:
    """Returns (height, width) from "256", "192x256", 256 or (192, 256). Both must be at least 32. flag: for messages."""
    try:
        parts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
        sides = [int(part) for part in parts]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise KsegError(f"--{flag}={value}: expected a size such as 256 or 192x256 (height x width)") from None
    if min(height, width) < 32:
        raise KsegError(f"--{flag}={value}: height and width must be at least 32")
    return height, width


def leaves(config_class: type) -> Iterator[tuple[Any, Any]]:
    """Yields (field, type without None) of a config and of the configs inside it: what flags and JSON are made of. No two of
    them share a name.
    """
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint)  # type: ignore[arg-type]
        else:
            if isinstance(hint, types.UnionType):
                hint = next(part for part in typing.get_args(hint) if part is not type(None))
            yield item, hint


def flatten(config: Any) -> dict[str, Any]:
    """Returns the values of a config and of the configs inside it, by the names of their flags."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        values |= flatten(value) if dataclasses.is_dataclass(value) else {item.name: value}
    return values


def flag_lines(config: Any) -> list[str]:
    """Returns the configuration as the lines of a flagfile; what is None is left to its default."""
    lines = []
    for name, value in flatten(config).items():
        if isinstance(value, bool):
            lines.append(f"--{name}" if value else f"--no{name}")
        elif value is not None:
            lines.append(f"--{name}={as_typed(value)}")
    return lines


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """The inverse of flatten; what is missing has its default, and a list stands for a tuple."""
    arguments: dict[str, Any] = {}
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(hint := hints[item.name]):
            arguments[item.name] = build(hint, values)  # type: ignore[arg-type]
        elif item.name in values:
            value = values[item.name]
            arguments[item.name] = tuple(value) if isinstance(value, list) else value
    return config_class(**arguments)


FORMAT = 3
"""Of the JSON that to_json writes. Raise it where a reader of before would misunderstand: a flag's meaning, not a new flag,
which earlier versions refuse by its name. 1, which had no number: groups nested or not. 2: some flags had other names (RENAMED).
"""
RENAMED = {"loss_bands": "loss_chunks"}
"""Flags that had another name in earlier versions: the old name and the new."""
_FORMAT_KEY = "config_format"


def as_typed(value: Any) -> Any:
    """A value as one would type it after the flag: a size 192x256, names separated by commas; others as they are."""
    if isinstance(value, tuple):
        return ",".join(value) if all(isinstance(part, str) for part in value) else "x".join(map(str, value))
    return value


def to_json(config: Any) -> str:
    """Returns a config as indented JSON, one member a flag."""
    return json.dumps({_FORMAT_KEY: FORMAT} | flatten(config), indent=2) + "\n"


def from_json(config_class: type[Config], text: str) -> Config:
    """Reads what to_json wrote, in this version or an earlier one. Raises KsegError if it is neither."""
    try:
        content = json.loads(text)
        number = content.pop(_FORMAT_KEY, 1) if isinstance(content, dict) else 1
        if type(number) is not int or not 1 <= number <= FORMAT:
            raise KsegError(f"its format is {number!r}, and this kseg reads up to {FORMAT}: it is a later kseg's; use that one")
        values: dict[str, Any] = {}
        for name, value in content.items():
            values |= value if isinstance(value, dict) else {name: value}
        if number < FORMAT:
            values = {RENAMED.get(name, name): value for name, value in values.items()}
        if unknown := sorted(set(values) - {item.name for item, _ in leaves(config_class)}):
            raise KsegError(f"not a kseg configuration: unknown field {unknown[0]!r}")
        if not values:
            raise KsegError("not a kseg configuration: it is empty")
        return build(config_class, values)
    except (json.JSONDecodeError, AttributeError, TypeError, RecursionError) as error:
        raise KsegError(f"not a kseg configuration: {error}") from None


def check_choices(config: Any) -> None:
    """Raises KsegError if a field that lists its choices has another value."""
    for item in dataclasses.fields(config):
        choices = item.metadata.get("choices")
        if choices and getattr(config, item.name) not in choices:
            raise KsegError(f"--{item.name}={getattr(config, item.name)}: must be one of {', '.join(choices)}")


def check_at_least(config: Any, least: float, *names: str) -> None:
    """Raises KsegError for a field below `least`, or not finite; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not least <= value < float("inf"):
            what = f"a finite number, {least} or more" if isinstance(value, float) else f"at least {least}"
            raise KsegError(f"--{name}={value}: must be {what}")


DISTRIBUTIONS = ("none", "data_parallel")
"""How a batch is computed: on one device, or divided among all."""


def check_not_empty(config: Any, *names: str) -> None:
    """Raises KsegError for a field that is empty; None passes."""
    for name in names:
        if getattr(config, name) == "":
            raise KsegError(f"--{name}= is empty: name one, or leave the flag out")


def check_workers(workers: int | None) -> None:
    """Raises KsegError for an absurd number of processes."""
    if workers is not None and not 0 <= workers <= 1024:
        raise KsegError(f"--workers={workers}: must be between 0 and 1024")
