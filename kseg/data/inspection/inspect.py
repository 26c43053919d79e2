"""Inspects a data set: reads every sample of every split once, and reports statistics, issues and class weights."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from kseg.config import InspectConfig
from kseg.data import build_dataset
from kseg.data.inspection.class_weights import FORMULAS
from kseg.data.inspection.command import training_command
from kseg.data.inspection.issues import Issue, find_issues
from kseg.data.inspection.statistics import SplitStatistics, read_split
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`.

    Attributes:
        splits: statistics of the splits that could be opened.
        issues: errors first, then warnings, then notes.
        class_weights: {formula: {class name: weight}}, of the first of the splits.
        command: trains on these data.
    """

    splits: list[SplitStatistics]
    issues: list[Issue]
    class_weights: dict[str, dict[str, float]]
    command: str

    @property
    def usable(self) -> bool:
        """True if no issue is an error."""
        return not any(issue.level == "error" for issue in self.issues)

    def to_json(self) -> str:
        """Returns the text of inspection.json: statistics of each split, class weights for --class_weights, issues."""
        content: dict[str, Any] = {
            "class_names": list(self.splits[0].dataset.class_names),
            "class_weights": self.class_weights,
            "class_weights_split": self.splits[0].split,
            "splits": {stats.split: _describe(stats) for stats in self.splits},
            "issues": [asdict(issue) for issue in self.issues],
            "command": self.command,
        }
        return json.dumps(content, indent=1) + "\n"


def inspect(config: InspectConfig) -> Inspection:
    """Inspects the splits. A split that cannot be opened is an Issue; raises KsegError if none can."""
    splits: list[SplitStatistics] = []
    unopened: list[tuple[str, KsegError]] = []
    for split in config.splits:
        try:
            dataset = build_dataset(config.data, split)
        except KsegError as error:
            unopened.append((split, error))
        else:
            splits.append(read_split(split, dataset))
    if not splits:
        raise unopened[0][1]
    issues = [
        Issue("error", "split", split, str(error), "Fix it, or choose other splits with --splits.") for split, error in unopened
    ]
    issues += find_issues(splits, config)
    order = ("error", "warning", "note")
    counts, names = splits[0].counts, splits[0].dataset.class_names
    weights = {name: dict(zip(names, formula(counts).tolist(), strict=True)) for name, formula in FORMULAS.items()}
    command = training_command(config, [stats.split for stats in splits])
    return Inspection(splits, sorted(issues, key=lambda issue: order.index(issue.level)), weights, command)


def _describe(stats: SplitStatistics) -> dict[str, Any]:
    counts = stats.counts
    labelled = max(int(counts.pixels.sum()), 1)
    return {
        "images": len(stats.samples),
        "bad_images": len(stats.bad),
        "pixels": stats.pixels,
        "ignored_share": stats.ignored / max(stats.pixels, 1),
        "overlap_share": sum(sample.overlap for sample in stats.samples.values()) / max(stats.pixels, 1),
        "classes": [
            {"name": name, "pixels": int(pixels), "share": int(pixels) / labelled, "images": int(images)}
            for name, pixels, images in zip(stats.dataset.class_names, counts.pixels, counts.images, strict=True)
        ],
        "reading": asdict(reading) if (reading := getattr(stats.dataset, "reading", None)) is not None else None,
        "left_out": list(getattr(stats.dataset, "left_out", ())),
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in stats.sizes.most_common()],
    }
