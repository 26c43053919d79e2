"""Runs the reference experiments: python -m experiments.reproduce --scale=small --data=camvid --data_dir=camvid [--help]."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_numbers
from experiments.flagfiles import Experiment, read_experiments
from experiments.table import write_table
from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError, suggest

DESCRIPTION = """
Runs the reference experiments one after the other, each a process of python -m kseg.train. After each it writes the table
experiments.md into --output. Finished experiments are not run again.

  python -m experiments.reproduce --scale=full --data_dir=DIR                                       the reference's data
  python -m experiments.reproduce --scale=small --data=camvid --data_dir=DIR --only=0429-5,0429-6   other data
  python -m experiments.reproduce --scale=smoke                                                     does everything run?

Other flags are kseg.train's, and go to every experiment after its own: --backbone_weights=none, --epochs=2, ...
"""


@dataclass(frozen=True)
class Scale:
    """How much of an experiment is run. size: (height, width) of the input where the reference has 512; half of it for 256."""

    about: str
    size: tuple[int, int] | None = None
    most_epochs: int | None = None
    largest_batch: int | None = None
    flags: tuple[str, ...] = ()

    def flags_for(self, config: TrainConfig) -> list[str]:
        """Returns the flags that follow the experiment's own."""
        flags = list(self.flags)
        if self.size:
            height, width = (max(32, side * config.image_size[0] // 512) for side in self.size)
            flags.append(f"--image_size={height}x{width}")
        if self.most_epochs:
            flags.append(f"--epochs={min(self.most_epochs, config.epochs)}")
        if self.largest_batch:
            flags.append(f"--batch_size={min(self.largest_batch, config.batch_size)}")
        return flags


NO_DOWNLOAD = ("--backbone_weights=none",)
SCALES = {
    "smoke": Scale("64x64 inputs, one epoch, batches of at most 4, from scratch", (64, 64), 1, 4, (*NO_DOWNLOAD, "--noreport")),
    "small": Scale(
        "64x80 inputs (32x40 for Resize 256), at most 4 epochs, batches of at most 8, from scratch",
        (64, 80),
        4,
        8,
        NO_DOWNLOAD,
    ),
    "full": Scale("as the reference's"),
}
DATA = {
    "reference": ("the reference's data", ()),
    "camvid": ("CamVid, not the reference's data", ("--annotations=annotations/{split}.json", "--images=images/{split}",
        "--nobackground", "--ignore_categories=unlabelled")),
    "facade": ("building facades, not the reference's data", ("--annotations=annotations/{split}.json", "--images=images/{split}",
        "--ignore_categories=0")),
    "drawn": ("a few drawn images, not the reference's data", ("--annotations=annotations/{split}.json",
        "--images=images/{split}")),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags that are not the experiments'."""
    result = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    about = "; ".join(f"{name}: {scale.about}" for name, scale in SCALES.items())
    result.add_argument("--scale", choices=SCALES, default="small", help=about.replace("%", "%%"))
    result.add_argument("--data", choices=DATA, help="how --data_dir is laid out; default: reference, at --scale=smoke drawn")
    result.add_argument("--only", default="", help="ids or flagfiles, separated by commas; default: all")
    result.add_argument("--output", default="runs/experiments", help="folder of the runs and of the table")
    return result


def read_arguments(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns (our flags, flags for the experiments). words: the command line without the program. Raises KsegError."""
    arguments, extra = parser().parse_known_args(list(words))
    arguments.data = arguments.data or ("drawn" if arguments.scale == "smoke" else "reference")
    if arguments.data == "drawn":
        from kseg.data.sources.synthetic import synthetic_coco

        extra = [f"--data_dir={synthetic_coco(train=8, val=4, size=64)}", *extra]
    for experiment in choose(arguments.only):
        flags_of(experiment, arguments, extra)
    return arguments, extra


def choose(only: str) -> list[Experiment]:
    """Returns the experiments that --only names."""
    experiments = read_experiments()
    named = [Path(name).stem[:6].replace("_", "-") for name in filter(None, only.split(","))]
    for name in named:
        if name not in [experiment.id for experiment in experiments]:
            raise KsegError(f"--only={name}: no such experiment{suggest(name, [item.id for item in experiments])}")
    return [experiment for experiment in experiments if not named or experiment.id in named]


def flags_of(experiment: Experiment, arguments: argparse.Namespace, extra: Sequence[str]) -> list[str]:
    """Returns the flags of an experiment's run, without --run_dir. Raises KsegError for what kseg.train does not accept."""
    flagfile = f"--flagfile={experiment.flagfile}"
    if not any(flag.startswith("--data_dir") for flag in extra):
        raise KsegError("--data_dir is missing: name the folder that holds the data (--data says how it is laid out)")
    own = parse(TrainConfig, ["kseg.train", flagfile, "--data_dir=DIR"], "")
    flags = [flagfile, *DATA[arguments.data][1], *SCALES[arguments.scale].flags_for(own), *extra]
    parse(TrainConfig, ["kseg.train", *flags], "")
    return flags


def reproduce(experiment: Experiment, flags: list[str], folder: Path) -> dict[str, Any]:
    """Runs or resumes an experiment, unless it is finished; returns its results for the table.

    folder: gets runs/ID, the log ID.txt, and the results ID.json once it is finished. Raises KsegError if it was finished with
    other flags.
    """
    result_file = folder / f"{experiment.id}.json"
    stated = [flag for flag in flags if not flag.startswith("--flagfile")]
    if result_file.exists():
        result = json.loads(result_file.read_text(encoding="utf-8"))
        if result["flags"] != stated:
            raise KsegError(f"--output={folder}: {experiment.id} was run there with other flags; name another folder")
        return result
    run, log = RunDir(folder / "runs" / experiment.id), folder / f"{experiment.id}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "kseg.train", *flags, "--resume", f"--run_dir={run.path.absolute()}"]
    code, memory = run_measured(command, log)
    result = {"flags": stated, "peak_memory_mb": memory}
    if code == 0:
        scores = folder / f"{experiment.id}-scores.json"
        code, _ = run_measured([sys.executable, "-m", "experiments.scores", run.path.absolute(), scores.absolute()], log)
        if code == 0:
            result |= json.loads(scores.read_text(encoding="utf-8"))
            scores.unlink()
            write_numbers(result_file, result)
            return result
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {**result, "failed": lines[-1] if lines else f"exit code {code}"}


def run_measured(command: Sequence[Any], log: Path) -> tuple[int, float]:
    """Runs a command and appends its output to the file. Returns (exit code, peak MB of the largest process of its tree, at least
    what this process holds).
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024


def main(argv: Sequence[str]) -> None:
    arguments, extra = read_arguments(argv[1:])
    folder, experiments = Path(arguments.output), choose(arguments.only)
    title = f"{DATA[arguments.data][0]}, at scale {arguments.scale} ({SCALES[arguments.scale].about})"
    rows, failed = [], 0
    for number, experiment in enumerate(experiments, 1):
        print(f"{number}/{len(experiments)} {experiment.id} {experiment.title}", flush=True)
        result = reproduce(experiment, flags_of(experiment, arguments, extra), folder)
        failed += "failed" in result
        print("    " + (result["failed"] if "failed" in result else f"mIoU {result['mean_iou']:.4f}"), flush=True)
        rows.append({**dataclasses.asdict(experiment), "flagfile": experiment.flagfile.name, **result})
        write_table(folder, title, rows, comparable=(arguments.data, arguments.scale) == ("reference", "full"))
    print(f"{len(rows)} experiments, {failed} failed: {folder / 'experiments.md'}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
