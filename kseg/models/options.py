"""The options of a model's decoder: their names and types, and their text form for flags and files."""

import ast
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError, suggest

LARGEST = 4096
"""Largest number of channels or features that an option may ask for."""
_LONGEST = 16  # numbers in a tuple


def known_options(model: str) -> dict[str, Any]:
    """Returns the default of each option of a model's decoder, by name."""
    parameters = inspect.signature(MODELS[model].build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "num_classes"}


def check_options(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with lists as tuples. Raises KsegError for one that the model does not have, or of another type."""
    known, hints = known_options(model), typing.get_type_hints(MODELS[model].build)
    checked = {}
    for name, value in options.items():
        if name not in known:
            has = suggest(name, known) if known else "; it has none."
            raise KsegError(f"{model} has no option {name!r}{has.rstrip('.')}")
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hints[name]):
            raise KsegError(f"{model}: {name}={value!r}: must be {_described(hints[name])}, such as {known[name]!r}")
        checked[name] = value
    return checked


def parse_options(model: str, text: str) -> dict[str, Any]:
    """Reads options such as `depth=4, attention=scse, decoder_channels=(64, 32, 16, 8)`. Raises KsegError."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError(text)
        options = {keyword.arg or "**": _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KsegError("cannot be read; expected NAME=VALUE, ..., such as depth=4,attention=scse") from None
    return check_options(model, options)


def read_options(model: str, text: str | None) -> dict[str, Any]:
    """Returns the options that the flag --model_options names; none for None. Raises KsegError, which names the flag."""
    try:
        return {} if text is None else parse_options(model, text)
    except KsegError as error:
        raise KsegError(f"--model_options={text}: {error}") from None


def options_text(options: Mapping[str, Any]) -> str:
    """Returns options as parse_options reads them."""
    return ",".join(f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in options.items())


def _literal(node: ast.expr) -> Any:
    """A name stands for itself: attention=scse."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _fits(value: Any, hint: Any) -> bool:
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if kind is tuple:
        return isinstance(value, tuple) and 0 < len(value) <= _LONGEST and all(_fits(item, arguments[0]) for item in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_described, arguments))
    if kind is tuple:
        return f"1 to {_LONGEST} numbers from 1 to {LARGEST}"
    names = {int: f"a whole number from 1 to {LARGEST}", float: "a number, 0 or more", str: "a name", bool: "True or False"}
    return names.get(hint, "None")
