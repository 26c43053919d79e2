"""Check: measures step and inference again as the page's tables were, and says which ratios to the peer got worse."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import network_title, read_between
from benchmarks.speed import COLUMNS, INFER, PAGE, STEP, section, table
from kseg.utils.errors import KsegError

HELP = (
    "Measures step and infer again with the commands that stand in docs/performance.md, and compares the ratios with its tables: "
    "exit code 1 if one got worse, also when measured once more. As long as both take."
)
TOLERANCE = {"time": 0.15, "memory": 0.1}
"""What a ratio may grow by, in parts of the page's: the turns of one run differ by about as much."""
RATIOS = {"time": "time, kseg / peer (lowest to highest turn)", "memory": "memory, kseg / peer"}
Ratios = dict[tuple[str, str], dict[str, float]]
Lines = dict[tuple[str, str, str], str]
"""What is said of each network's, peer's ratio of time or memory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=("step", "infer", "step-gpu", "infer-gpu"),
        default=["step", "infer"],
        help="tables of the page",
    )
    parser.add_argument("--turns", type=int, help="other than the page's")
    parser.add_argument(
        "--time_tolerance", type=float, default=TOLERANCE["time"], help="what a ratio of times may grow by, in parts of it"
    )
    parser.add_argument("--memory_tolerance", type=float, default=TOLERANCE["memory"], help="the same for ratios of memory")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the tables")


def run(arguments: argparse.Namespace) -> None:
    tolerance = {"time": arguments.time_tolerance, "memory": arguments.memory_tolerance}
    committed = {
        name: committed_run(arguments.page, name) for name in arguments.sections
    }  # all of them are read before any is run
    worse = []
    for name, (speed_arguments, before) in committed.items():
        if arguments.turns:
            speed_arguments.turns = arguments.turns
        lines = _measured_again(name, speed_arguments, before, tolerance)
        if suspects := _worse(lines):
            concerned = {network for network, _, _ in suspects}
            networks = [network for network in speed_arguments.models if network_title(network) in concerned]
            print(f"{name}: {', '.join(networks)} once more, in case something else ran beside", flush=True)
            speed_arguments.models = networks
            confirmed = _worse(_measured_again(name, speed_arguments, before, tolerance))
            worse += [f"{name}: {line}" for key, line in confirmed.items() if key in suspects]
    if worse:
        print("\n".join(["Worse than the page says:", *worse]), file=sys.stderr)
        raise SystemExit(1)
    print("Nothing got worse.")


def _measured_again(name: str, arguments: argparse.Namespace, before: Ratios, tolerance: Mapping[str, float]) -> Lines:
    """Measures networks of a table of the page, and prints and returns how their ratios are now."""
    result = (STEP if name.startswith("step") else INFER).measure(arguments)
    if section(result) != name:
        raise KsegError(f"--sections={name}: this machine measures {section(result)}; check that section here")
    text = table(result)
    networks = {network_title(network) for network in arguments.models}
    lines = compare({key: ratios for key, ratios in before.items() if key[0] in networks}, read_ratios(text), tolerance)
    print("\n".join([text, "", *(f"{name}: {line}" for line in lines.values()), ""]), flush=True)
    return lines


def _worse(lines: Lines) -> Lines:
    return {key: line for key, line in lines.items() if line.endswith("WORSE")}


def committed_run(page: Path, name: str) -> tuple[argparse.Namespace, Ratios]:
    """Returns the arguments of the command that made a table of the page, and its ratios. Raises KsegError if it was not made."""
    text = read_between(page, name)
    command = re.search(r"`python scripts/benchmark\.py (step|infer) ([^`]*)`", text)
    ratios = read_ratios(text)
    if not command or not ratios:
        raise KsegError(
            f"{page}: {name} has no measured ratios; measure them first (benchmark.py {name.partition('-')[0]} --peer --write)"
        )
    parser = argparse.ArgumentParser()
    (STEP if command[1] == "step" else INFER).add_arguments(parser)
    return parser.parse_args(shlex.split(command[2])), ratios


def read_ratios(text: str) -> Ratios:
    """Returns {(network, peer): {"time": ratio, "memory": ratio}} of the table in a text, ratios that are missing left out."""
    found: Ratios = {}
    columns: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|") or line.startswith("|---"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not columns:
            if cells != list(COLUMNS):
                raise KsegError(
                    f"a table begins with {line!r}, not with the columns of step and infer; measure it again with --write"
                )
            columns = cells
            continue
        row = dict(zip(columns, cells, strict=True))
        ratios = {what: float(row[column].split()[0]) for what, column in RATIOS.items() if row[column]}
        if ratios:
            found[row["network"], row["peer"]] = ratios
    return found


def compare(before: Ratios, after: Ratios, tolerance: Mapping[str, float]) -> Lines:
    """Returns a line for each ratio of before; those that grew by more than the tolerance, or are gone, end in WORSE."""
    lines: Lines = {}
    for (network, peer), ratios in before.items():
        for what, old in ratios.items():
            new: Any = after.get((network, peer), {}).get(what)
            line = f"{network}, {peer}, {what}: {old:.2f} on the page, "
            if new is None:
                line += "not measured now: WORSE"
            else:
                verdict = "WORSE" if new > old * (1 + tolerance[what]) else "fine"
                line += f"{new:.2f} now ({new / old - 1:+.0%}, tolerance {tolerance[what]:.0%}): {verdict}"
            lines[network, peer, what] = line
    return lines
