"""Parses the command line: one absl flag for every field of a config. The only place that defines flags."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from kseg.config.fields import as_typed, build, flag_names, leaves, new_name
from kseg.config.help import help_text
from kseg.utils.errors import KsegError, suggest

Config = TypeVar("Config")


def parse(config_class: type[Config], argv: Sequence[str], description: str) -> Config:
    """Returns the config that argv describes; see parse_given."""
    return parse_given(config_class, argv, description)[0]


def parse_given(config_class: type[Config], argv: Sequence[str], description: str) -> tuple[Config, frozenset[str]]:
    """Returns the config that argv describes, and the names of the flags that it, or a flagfile, sets.

    argv[0] is the program. --help prints the description and all flags, and exits with 0. --flagfile=F reads flags from a file
    (a flagfile named in F is looked for beside F); later flags win. Arguments that are no flags are added to the list that the
    config class names as POSITIONAL; with POSITIONAL_NEEDS_FLAG, only if its flag is given.

    Raises KsegError for an unknown or renamed flag, a value of the wrong type, or an unexpected argument.
    """
    if any(argument.lstrip("-") in ("help", "helpfull", "helpshort", "h") and argument.startswith("-") for argument in argv[1:]):
        print(help_text(config_class, description))
        raise SystemExit(0)
    names = flag_names(config_class)
    values = _FlagValues()
    _define(config_class, values)
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    flags.DEFINE_string("undefok", "", "", flag_values=values)
    values.set_gnu_getopt(True)  # flags may follow plain arguments
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise KsegError(_unknown(error.flagname, error.flagvalue, names)) from None
    except (flags.Error, OSError) as error:
        raise KsegError(" ".join(str(error).replace("ERROR:: ", "").replace("flag ", "", 1).split())) from None
    positional: str | None = getattr(config_class, "POSITIONAL", None)
    if rest and positional and (values[positional].present or not getattr(config_class, "POSITIONAL_NEEDS_FLAG", False)):
        values[positional].value = [*values[positional].value, *rest]
    elif rest:
        raise KsegError(f"unexpected argument {rest[0]!r}: every setting is a flag, --name=value")
    config = build(config_class, {name: values[name].value for name in names})
    return config, frozenset(name for name in names if values[name].present)


def _unknown(name: str, value: Any, names: list[str]) -> str:
    """Returns the message for a flag that the command does not have."""
    if (new := new_name(name, names)) is None:
        return f"unknown flag --{name}{suggest(name, [*names, 'flagfile', 'help'])}"
    given = "".join(str(value).partition("=")[1:])  # absl's value is the whole argument
    return f"--{name}{given} is now --{new}{'' if '=' in new else given}"


class _FlagValues(flags.FlagValues):
    """absl's, but a flagfile finds the flagfiles that it names from any working directory."""

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        if parsed_file_stack:  # named by the last file of the stack
            filename = os.path.normpath(Path(parsed_file_stack[-1]).parent / filename)
        return super()._get_flag_file_lines(filename, parsed_file_stack)


def _define(config_class: type, values: flags.FlagValues) -> None:
    for field, hint in leaves(config_class):
        name, text, default = field.name, field.metadata["help"], field.default
        if hint is bool:
            flags.DEFINE_bool(name, default, text, flag_values=values)
        elif hint is int:
            flags.DEFINE_integer(name, default, text, flag_values=values)
        elif hint is float:
            flags.DEFINE_float(name, default, text, flag_values=values)
        elif hint == tuple[str, ...]:
            flags.DEFINE_list(name, None if default is None else list(default), text, flag_values=values)
        elif field.metadata["choices"]:
            flags.DEFINE_enum(name, default, field.metadata["choices"], text, flag_values=values)
        else:
            flags.DEFINE_string(name, as_typed(default), text, flag_values=values)
