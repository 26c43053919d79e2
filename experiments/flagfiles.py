"""The diary's experiments as flags/ has them: one flagfile each, whose header says what the diary found."""

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT

HEADER = re.compile(r"# (\d{4}-\d): (.+)\.\n# Diary: (.+)\.\n")


@dataclass(frozen=True)
class Experiment:
    """One of the diary's. leaderboard, validation: its mIoUs, None where it states none."""

    id: str
    title: str
    leaderboard: float | None
    validation: float | None
    flagfile: Path


def read_experiments(folder: Path = ROOT / "flags") -> list[Experiment]:
    """Returns the experiments in the diary's order. Raises ValueError for a flagfile whose header is not what it should be."""
    experiments = []
    for path in sorted(folder.glob("0*.txt")):
        header = HEADER.match(path.read_text(encoding="utf-8"))
        if header is None:
            raise ValueError(f"{path}: does not begin with lines such as '# 0429-6: ....' and '# Diary: leaderboard 0.5881.'")
        id, title, found = header.groups()
        experiments.append(Experiment(id, title, _number("leaderboard", found), _number("validation mIoU", found), path))
    return experiments


def _number(name: str, text: str) -> float | None:
    found = re.search(rf"(?<!no ){name} (\d\.\d+)", text)
    return float(found[1]) if found else None
