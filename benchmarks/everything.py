"""All: every command that measures, one after the other."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.common import ROOT

HELP = "Every command that measures, with its defaults, against its peer where it has one. About 2 hours on two idle cores."
COMMANDS: dict[str, Sequence[str]] = {
    "step": ("--peer",),
    "infer": ("--peer",),
    "memory": ("--peer",),
    "compile": (),
    "curves": ("--peer", "eager"),
    "fit": (),
    "startup": (),
    "loader": ("--peer",),
    "export": (),
    "remat": (),
}
BARE = ("step", "infer", "memory", "compile", "curves")
"""What needs neither TensorFlow nor data."""
WRITING = tuple(name for name in COMMANDS if name != "remat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="some of the commands")
    parser.add_argument(
        "--bare", action="store_true", help=f"only what needs neither TensorFlow nor data, on a GPU machine: {', '.join(BARE)}"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")


def run(arguments: argparse.Namespace) -> None:
    failed = []
    for name in commands(arguments):
        words = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), name, *COMMANDS[name]]
        if arguments.write and name in WRITING:
            words.append("--write")
        print(f"== {' '.join([name, *words[3:]])}", flush=True)
        if subprocess.run(words, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def commands(arguments: argparse.Namespace) -> list[str]:
    """The commands that are to run, in their order."""
    return [name for name in COMMANDS if name in arguments.only and (name in BARE or not arguments.bare)]
