"""Benchmarks, each against a peer in the same run: python scripts/benchmark.py COMMAND [--help].

A command is a module in scripts/benchmarks with `HELP`, `add_arguments(parser)` and `run(arguments)`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import export, fit, loader, memory, remat, startup

COMMANDS = {"export": export, "fit": fit, "loader": loader, "memory": memory, "remat": remat, "startup": startup}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
    return result


def main() -> None:
    arguments = parser().parse_args()
    COMMANDS[arguments.command].run(arguments)


if __name__ == "__main__":
    main()
