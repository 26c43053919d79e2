"""Reads the reference experiments from flags/: one flagfile each, whose header states the reference's result."""

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT

HEADER = re.compile(r"# (\d{4}-\d): (.+)\.\n# Reference: (.+)\.\n")


@dataclass(frozen=True)
class Experiment:
    """One reference experiment. leaderboard, validation: the mIoUs that were reached, None where unknown."""

    id: str
    title: str
    leaderboard: float | None
    validation: float | None
    flagfile: Path


def read_experiments(folder: Path = ROOT / "flags") -> list[Experiment]:
    """Returns the experiments in order of date. Raises ValueError for a flagfile without the expected header."""
    experiments = []
    for path in sorted(folder.glob("0*.txt")):
        header = HEADER.match(path.read_text(encoding="utf-8"))
        if header is None:
            raise ValueError(f"{path}: must begin with lines such as '# 0429-6: ....' and '# Reference: leaderboard 0.5881.'")
        id, title, result = header.groups()
        experiments.append(Experiment(id, title, _number("leaderboard", result), _number("validation mIoU", result), path))
    return experiments


def _number(name: str, text: str) -> float | None:
    found = re.search(rf"(?<!no ){name} (\d\.\d+)", text)
    return float(found[1]) if found else None
