"""The command line: one absl flag for every field of a config. The only place that defines flags."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from kseg.config.fields import as_typed, build, leaves
from kseg.utils.errors import KsegError, suggest

Config = TypeVar("Config")
_FILES = ("output", "checkpoint", "out", "submission", "model_file", "per_image", "results", "video", "overlay_video")


def parse(config_class: type[Config], argv: Sequence[str], description: str) -> Config:
    """Returns the config that argv (argv[0] is the program) describes; see parse_given."""
    return parse_given(config_class, argv, description)[0]


def parse_given(config_class: type[Config], argv: Sequence[str], description: str) -> tuple[Config, frozenset[str]]:
    """Returns the config that argv describes, and the names of the flags that it, or a flagfile, sets.

    Prints the help and exits with 0 on --help. Raises KsegError for an unknown flag, a value of the wrong type, or an
    argument that is no flag, unless the config's class names a list that takes such (POSITIONAL) and its flag is there.
    --flagfile=F reads flags from a file; later flags win. A flagfile that F names is looked for beside F.
    """
    if any(argument.lstrip("-") in ("help", "helpfull", "helpshort", "h") and argument.startswith("-") for argument in argv[1:]):
        print(_help(config_class, description))
        raise SystemExit(0)
    values = _FlagValues()
    _define(config_class, values)
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    flags.DEFINE_string("undefok", "", "", flag_values=values)
    values.set_gnu_getopt(True)  # flags may follow what is no flag
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise KsegError(f"unknown flag --{error.flagname}{suggest(error.flagname, _names(config_class))}") from None
    except (flags.Error, OSError) as error:
        raise KsegError(" ".join(str(error).replace("ERROR:: ", "").replace("flag ", "", 1).split())) from None
    positional = getattr(config_class, "POSITIONAL", None)  # the list that what is no flag is added to, if the flag is given
    if rest and positional and values[positional].present:
        values[positional].value += rest
    elif rest:
        raise KsegError(f"unexpected argument {rest[0]!r}: every setting is a flag, --name=value")
    names = [item.name for item, _ in leaves(config_class)]
    config = build(config_class, {name: values[name].value for name in names})
    return config, frozenset(name for name in names if values[name].present)


class _FlagValues(flags.FlagValues):
    """absl's, in which a flagfile finds those that it names from any working directory."""

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        if parsed_file_stack:  # named by the last file of the stack
            filename = os.path.normpath(Path(parsed_file_stack[-1]).parent / filename)
        return super()._get_flag_file_lines(filename, parsed_file_stack)


def _names(config_class):
    return [field.name for field, _ in leaves(config_class)] + ["flagfile", "help"]


def _define(config_class, values):
    for field, hint in leaves(config_class):
        name, help = field.name, field.metadata["help"]
        if hint is bool:
            flags.DEFINE_bool(name, field.default, help, flag_values=values)
        elif hint is int:
            flags.DEFINE_integer(name, field.default, help, flag_values=values)
        elif hint is float:
            flags.DEFINE_float(name, field.default, help, flag_values=values)
        elif hint == tuple[str, ...]:
            flags.DEFINE_list(name, None if field.default is None else list(field.default), help, flag_values=values)
        elif field.metadata["choices"]:
            flags.DEFINE_enum(name, field.default, field.metadata["choices"], help, flag_values=values)
        else:
            flags.DEFINE_string(name, as_typed(field.default), help, flag_values=values)


def _help(config_class, description):
    lines = [description.strip(), ""]
    groups: dict[str, list[Any]] = {}
    for field, hint in leaves(config_class):
        groups.setdefault(field.metadata["group"], []).append((field, hint))
    for group, fields in groups.items():
        lines.append(f"{group}:")
        for field, hint in fields:
            default = as_typed(field.default)
            kind = "" if hint is bool else "=" + ("|".join(field.metadata["choices"] or ()) or _kind(field, hint))
            text = field.metadata["help"]
            if default not in (None, "", False):
                text += f" [{'yes' if default is True else default}]"
            head = f"  --{'[no]' if hint is bool else ''}{field.name}{kind}"
            wrapped = textwrap.wrap(text, 78)
            if len(head) < 30:
                lines.append(f"{head:<30}  {wrapped[0]}")
                wrapped = wrapped[1:]
            else:
                lines.append(head)
            lines.extend(" " * 32 + line for line in wrapped)
        lines.append("")
    lines += [
        "  --flagfile=FILE               Read flags from a file, one a line; # starts a comment.",
        "  --help                        This text.",
    ]
    return "\n".join(lines)


def _kind(field, hint):
    if hint is int:
        return "N"
    if hint is float:
        return "X"
    if hint == tuple[int, int]:
        return "HxW"
    if hint == tuple[str, ...]:
        return "A,B,..."
    return (
        "DIR"
        if field.name.endswith("_dir") or field.metadata["help"].startswith("Folder")
        else "FILE"
        if field.name in _FILES
        else "NAME"
    )
