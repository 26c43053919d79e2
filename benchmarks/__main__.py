"""Benchmarks of kseg: python -m benchmarks COMMAND [flags], from the project's root.

A command prints a Markdown table. --json=FILE keeps the numbers. --write puts them into benchmarks/results/, and the table into
the pages that have a place for it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import backends, compile_times, curves, export, fit, loader, models, parity, remat, speed, torch_training
from benchmarks.common import RESULTS, Result, publish, read_result, write_numbers
from kseg.runtime.main import run_main
from kseg.utils.errors import KsegError

BENCHMARKS = {
    "step": speed.STEP,
    "infer": speed.INFER,
    "remat": remat.BENCHMARK,
    "compile": compile_times.BENCHMARK,
    "curves": curves.BENCHMARK,
    "fit": fit.BENCHMARK,
    "loader": loader.BENCHMARK,
    "export": export.BENCHMARK,
    "backends": backends.BENCHMARK,
    "torch-training": torch_training.BENCHMARK,
    "models": models.BENCHMARK,
    "parity": parity.BENCHMARK,
}


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Reads the command line, without the program. Raises KsegError for an unknown flag."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.help, description=benchmark.help, allow_abbrev=False)
        benchmark.add_arguments(command)
        command.add_argument("--json", type=Path, help="write the numbers into this file")
        command.add_argument("--write", action="store_true", help="update benchmarks/results/ and the pages")
    tables = commands.add_parser("tables", help="write the pages' tables and charts again from benchmarks/results/")
    tables.add_argument("names", nargs="*", help="results, such as step-gpu; default: all")
    arguments, extra = parser.parse_known_args(list(words))
    if arguments.command == "backends":
        arguments.train = backends.train_config(extra)
    elif extra:
        raise KsegError(f"{arguments.command}: unknown argument {extra[0]}; see python -m benchmarks {arguments.command} --help")
    return arguments


def main(argv: Sequence[str]) -> None:
    arguments = read_arguments(argv[1:])
    command = vars(arguments).pop("command")
    if command == "tables":
        for path in [RESULTS / f"{name}.json" for name in arguments.names] or sorted(RESULTS.glob("*.json")):
            result = read_result(path)
            publish(BENCHMARKS[result["benchmark"]], result)
        return
    benchmark = BENCHMARKS[command]
    file, write = vars(arguments).pop("json"), vars(arguments).pop("write")  # what is left are the measurement's settings

    def save(result: Result) -> None:
        if file:
            write_numbers(file, result)
        if write:
            publish(benchmark, result)

    result = benchmark.measure(arguments, save)
    save(result)
    print(benchmark.table(result))


if __name__ == "__main__":
    run_main(main)
