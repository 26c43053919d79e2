"""The console command: kseg NAME ... runs python -m kseg.NAME ..."""

import importlib
from collections.abc import Sequence

from kseg.runtime.main import run_main
from kseg.utils.errors import KsegError, suggest

COMMANDS = (
    "train", "evaluate", "predict", "inspect_data", "find_lr", "report", "export", "convert", "hub", "demo", "write_shards",
)  # fmt: skip
"""The modules of kseg that are commands, in the order of --help."""


def help_text() -> str:
    """Returns the commands, each with its docstring's first line."""
    lines = ["Semantic segmentation for Keras 3 and JAX.", "", "  kseg COMMAND [flags]", ""]
    for name in COMMANDS:
        lines.append(f"  {name:<14}{(_module(name).__doc__ or '').partition(':')[0]}.")
    return "\n".join([*lines, "", "kseg COMMAND --help lists a command's flags. python -m kseg.COMMAND does the same."])


def run(argv: Sequence[str]) -> None:
    """Runs the command that argv[1] names, with the arguments behind it."""
    name, arguments = (argv[1], argv[2:]) if len(argv) > 1 else (None, ())
    if name in (None, "help", "--help", "-help", "-h"):
        print(help_text())
        raise SystemExit(0 if name else 2)
    if name not in COMMANDS:
        raise KsegError(f"unknown command {name!r}{suggest(str(name), COMMANDS)}")
    _module(name).main([f"kseg.{name}", *arguments])


def _module(name):
    return importlib.import_module(f"kseg.{name}")


def main() -> None:
    """The entry point of the console command."""
    run_main(run)


if __name__ == "__main__":
    main()
