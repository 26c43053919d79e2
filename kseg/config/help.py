"""The text that --help prints."""

import textwrap
from typing import Any

from kseg.config.fields import as_typed, leaves

_LEFT, _RIGHT = 30, 78  # width of the flags' column and of the texts


def help_text(config_class: type, description: str) -> str:
    """Returns a command's description and its flags by group, in the order of GROUPS, if the class has it, then of the fields."""
    groups: dict[str, list[str]] = {name: [] for name in getattr(config_class, "GROUPS", ())}
    for field, hint in leaves(config_class):
        groups.setdefault(field.metadata["group"], []).extend(_flag(field, hint))
    lines = [description.strip(), ""]
    for group, texts in groups.items():
        lines += [f"{group}:", *texts, ""]
    lines += _entry("  --flagfile=FILE", "Read flags from a file, one per line; # starts a comment.")
    lines += _entry("  --help", "Show this text.")
    return "\n".join(lines)


def _flag(field: Any, hint: Any) -> list[str]:
    default, text = as_typed(field.default), field.metadata["help"]
    if default not in (None, "", False):
        text += f" [{'yes' if default is True else default}]"
    value = "" if hint is bool else f"={placeholder(field, hint)}"
    return _entry(f"  --{'[no]' if hint is bool else ''}{field.name}{value}", text)


def _entry(head: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _RIGHT)
    first = [f"{head:<{_LEFT}}  {lines.pop(0)}"] if len(head) < _LEFT else [head]
    return first + [" " * (_LEFT + 2) + line for line in lines]


def placeholder(field: Any, hint: Any) -> str:
    """Returns what stands for a flag's value, such as FILE or N."""
    if field.metadata["value"] or field.metadata["choices"]:
        return field.metadata["value"] or "|".join(field.metadata["choices"])
    if hint == tuple[str, ...]:
        return "A,B,..."
    if hint == tuple[int, int]:
        return "HxW"
    if field.metadata["help"].startswith("Folder"):
        return "DIR"
    return {int: "N", float: "X"}.get(hint, "NAME")
