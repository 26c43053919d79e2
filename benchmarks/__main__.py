"""Benchmarks, each against a peer in the same run: python scripts/benchmark.py COMMAND [--help].

A command is a module in scripts/benchmarks (or an object) with `HELP`, `add_arguments(parser)` and `run(arguments)`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import check, compile_times, everything, export, fit, curves, loader, memory, remat, speed, startup

from kseg.runtime.main import run_main

COMMANDS: dict[str, Any] = {
    "step": speed.STEP,
    "infer": speed.INFER,
    "memory": memory,
    "compile": compile_times,
    "curves": curves,
    "fit": fit,
    "loader": loader,
    "startup": startup,
    "export": export,
    "remat": remat,
    "all": everything,
    "check": check,
}
ALIASES = {"fit": ["metric"], "remat": ["bands"]}
"""What a confusion matrix costs is measured beside what fit costs; --remat and --loss_chunks in one way."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, aliases=ALIASES.get(name, []), help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return result


def main(words: Sequence[str]) -> None:
    arguments = parser().parse_args(words[1:])
    run = vars(arguments).pop("run")  # what is left are settings, which are written beside what was measured
    run(arguments)


if __name__ == "__main__":
    run_main(main)
