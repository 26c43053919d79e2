"""Building blocks of the configs: fields with their flag's help, shared checks, and JSON both ways."""

import dataclasses
import json
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from kseg.config.data_sources import drop_unread
from kseg.utils.errors import KsegError

Config = TypeVar("Config")
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""A repository of the Hub by its name, owner/name."""
COMPILATION_CACHE_AUTO, COMPILATION_CACHE_NONE = "auto", "none"
MIN_SIDE = 32
"""Least height and width of the network's input, in pixels."""
DISTRIBUTIONS = ("none", "data_parallel")
"""Values of --distribution: compute a batch on one device, or divide it among all."""

PYTHON = "python"
"""The dataset in config.json of a run with data given from Python, to kseg.Segmenter. A loss or optimizer that was an object is
"python:" and its class there."""

FORMAT = 4
"""Number in the JSON that to_json writes. Raise it when an earlier reader would misunderstand a flag; a new flag needs no new
number, because earlier versions refuse its name. 1 (not written): groups could be nested. 2: before some flags were renamed.
3: flags that the data source does not read were ignored.
"""
_FORMAT_KEY = "config_format"

RENAMED = {
    "loss_bands": ("loss_chunks",),
    "run_dir": ("model",),
    "model_file": ("model",),
    "folder": ("output", "model"),
    "out": ("output",),
    "output_dir": ("output",),
    "labels_dir": ("output=DIR --write=labels",),
    "overlays_dir": ("output=DIR --write=overlays",),
    "overlay_video": ("output=DIR --write=overlays",),
    "probabilities_dir": ("output=DIR --write=probabilities",),
    "results": ("output=DIR --write=results",),
    "submission": ("output=DIR --write=submission",),
    "argmax": ("result=labels",),
}
"""Earlier names of flags, and what replaced each: the first one that a command has."""


def field(default: Any, help: str, group: str, choices: tuple[str, ...] | None = None, value: str | None = None) -> Any:
    """Returns a dataclass field that becomes a flag of its name.

    group: heading that --help lists it under. choices: the allowed values. value: placeholder in --help, such as FILE.
    """
    return dataclasses.field(default=default, metadata={"help": help, "group": group, "choices": choices, "value": value})


def python_field(default: Any) -> Any:
    """Returns a field that is in config.json but is no flag: a note about objects that were given from Python."""
    return dataclasses.field(default=default, metadata={"help": "", "group": "", "choices": None, "value": None, "flag": False})


def is_object(value: Any) -> bool:
    """Returns True for a flag's value that stands for an object given from Python."""
    return isinstance(value, str) and value.startswith(f"{PYTHON}:")


def compilation_cache_field() -> Any:
    """Returns --compilation_cache, for every command that computes."""
    return field(
        COMPILATION_CACHE_AUTO,
        "Folder that keeps compiled programs for later runs (JAX). auto: $KSEG_CACHE/xla, by default ~/.cache/kseg/xla; none: "
        "keep nothing.",
        "devices",
        value="DIR",
    )


def workers_field() -> Any:
    """Returns --workers, for commands that load images."""
    return field(None, "Processes that load images. 0: threads; default: one per core.", "devices")


def distribution_field() -> Any:
    """Returns --distribution, for commands that compute batches."""
    return field("none", "data_parallel: divide every batch among all devices (JAX only).", "devices", DISTRIBUTIONS)


def parse_size(value: Any, flag: str = "image_size") -> tuple[int, int]:
    """Returns (height, width) from "256", "192x256", 256 or (192, 256).

    flag: its name, for messages. Raises KsegError unless both are integers of at least MIN_SIDE.
    """
    try:
        parts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
        sides = [int(part) for part in parts]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise KsegError(f"--{flag}={value}: expected a size such as 256 or 192x256 (height x width)") from None
    if min(height, width) < MIN_SIDE:
        raise KsegError(f"--{flag}={value}: height and width must be at least {MIN_SIDE}")
    return height, width


def leaves(config_class: type, *, notes: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yields (field, type without None) for each flag of a config class and of the configs nested in it. Names are unique.

    notes: also the fields of python_field, which are no flags.
    """
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, notes=notes)  # type: ignore[arg-type]
        elif notes or item.metadata.get("flag", True):
            if isinstance(hint, types.UnionType):
                hint = next(part for part in typing.get_args(hint) if part is not type(None))
            yield item, hint


def flag_names(config_class: type) -> list[str]:
    """Returns the names of a config's flags."""
    return [item.name for item, _ in leaves(config_class)]


def flatten(config: Any) -> dict[str, Any]:
    """Returns the values of a config and of the configs nested in it, by flag name."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        values |= flatten(value) if dataclasses.is_dataclass(value) else {item.name: value}
    return values


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Builds a config from the values that flatten returns. Missing ones get their defaults; lists become tuples."""
    arguments: dict[str, Any] = {}
    hints = typing.get_type_hints(config_class)
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(hint := hints[item.name]):
            arguments[item.name] = build(hint, values)  # type: ignore[arg-type]
        elif item.name in values:
            value = values[item.name]
            arguments[item.name] = tuple(value) if isinstance(value, list) else value
    return config_class(**arguments)


def as_typed(value: Any) -> Any:
    """Returns a value as a user types it: a size as 192x256, names separated by commas; others unchanged."""
    if isinstance(value, tuple):
        return ",".join(map(_listed, value)) if all(isinstance(part, str) for part in value) else "x".join(map(str, value))
    return value


def _listed(name: str) -> str:
    """Returns a name as a list of names has it: in quotes if it holds a comma."""
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"') else name


def as_flag(name: str, value: Any) -> str:
    """Returns a flag as a user types it, without quotes for a shell."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={as_typed(value)}"


def flag_lines(config: Any) -> list[str]:
    """Returns a config as the lines of a flagfile, without the flags that are None."""
    lines, values = [], flatten(config)
    for name in flag_names(type(config)):
        if (value := values[name]) is not None:
            lines.append(as_flag(name, value))
    return lines


def new_name(name: str, flags: Collection[str]) -> str | None:
    """Returns what replaced an earlier flag, of the flags that a command has; None if nothing did."""
    return next((new for new in RENAMED.get(name, ()) if new.partition("=")[0] in flags), None)


def to_json(config: Any) -> str:
    """Returns a config as indented JSON, one member per flag."""
    return json.dumps({_FORMAT_KEY: FORMAT} | flatten(config), indent=2) + "\n"


def from_json(config_class: type[Config], text: str) -> Config:
    """Reads the JSON that this or an earlier version of to_json wrote. Raises KsegError for other text."""
    try:
        content = json.loads(text)
        number = content.pop(_FORMAT_KEY, 1) if isinstance(content, dict) else 1
        if type(number) is not int or not 1 <= number <= FORMAT:
            raise KsegError(f"its format is {number!r}, and this kseg reads up to {FORMAT}: use the later kseg that wrote it")
        values: dict[str, Any] = {}
        for name, value in content.items():
            values |= value if isinstance(value, dict) else {name: value}
        names = {item.name for item, _ in leaves(config_class, notes=True)}
        if number < FORMAT:
            values = {name if name in names else new_name(name, names) or name: value for name, value in values.items()}
            values = drop_unread(values)
        if unknown := sorted(set(values) - names):
            raise KsegError(f"not a kseg configuration: unknown field {unknown[0]!r}")
        if not values:
            raise KsegError("not a kseg configuration: it is empty")
        return build(config_class, values)
    except (json.JSONDecodeError, AttributeError, TypeError, RecursionError) as error:
        raise KsegError(f"not a kseg configuration: {error}") from None


def check_choices(config: Any) -> None:
    """Raises KsegError if a field has a value that is not among its choices; None and objects (is_object) pass."""
    for item in dataclasses.fields(config):
        choices, value = item.metadata.get("choices"), getattr(config, item.name)
        if choices and value is not None and value not in choices and not is_object(value):
            raise KsegError(f"--{item.name}={value}: must be one of {', '.join(choices)}")


def check_at_least(config: Any, least: float, *names: str) -> None:
    """Raises KsegError for a field that is below `least` or not finite; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not least <= value < float("inf"):
            what = f"a finite number, {least} or more" if isinstance(value, float) else f"at least {least}"
            raise KsegError(f"--{name}={value}: must be {what}")


def check_not_empty(config: Any, *names: str) -> None:
    """Raises KsegError for an empty field; None passes."""
    for name in names:
        if getattr(config, name) == "":
            raise KsegError(f"--{name}= is empty: give a value, or leave the flag out")


def check_workers(workers: int | None) -> None:
    """Raises KsegError for a number of processes outside 0..1024; None passes."""
    if workers is not None and not 0 <= workers <= 1024:
        raise KsegError(f"--workers={workers}: must be between 0 and 1024")


def check_architecture(model: str | None, instead: str = "") -> None:
    """Raises KsegError if --model names a trained model where an architecture is needed. instead: advice to add."""
    if model is not None and ("/" in model or "\\" in model or model.endswith(".keras")):
        raise KsegError(f"--model={model}: is a trained model; name an architecture, such as deeplabv3plus{instead}")
