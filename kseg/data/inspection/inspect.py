"""What a data set holds, and what is wrong with it: every sample of every split is read once."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from kseg.config import InspectConfig
from kseg.data import build_dataset
from kseg.data.inspection.class_weights import FORMULAS
from kseg.data.inspection.issues import Issue, find_issues
from kseg.data.inspection.statistics import SplitStatistics, read_split
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class Inspection:
    """All of it. class_weights: {formula: {class name: weight}}, of the first split that could be opened."""

    splits: list[SplitStatistics]
    defects: list[Issue]
    class_weights: dict[str, dict[str, float]]

    @property
    def usable(self) -> bool:
        return not any(defect.level == "error" for defect in self.defects)

    def to_json(self) -> str:
        """The JSON file: facts of each split, class weights for --class_weights, defects."""
        content: dict[str, Any] = {
            "class_names": list(self.splits[0].dataset.class_names),
            "class_weights": self.class_weights,
            "class_weights_split": self.splits[0].split,
            "splits": {facts.split: _describe(facts) for facts in self.splits},
            "defects": [asdict(defect) for defect in self.defects],
        }
        return json.dumps(content, indent=1) + "\n"


def inspect(config: InspectConfig) -> Inspection:
    """Reads the splits. Raises KsegError if none of them can be opened; everything less is a Issue."""
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
    defects = [
        Issue("error", "split", split, str(error), "Mend it, or name other splits with --splits.") for split, error in unopened
    ]
    defects += find_issues(splits, config)
    order = ("error", "warning", "note")
    counts, names = splits[0].counts, splits[0].dataset.class_names
    weights = {name: dict(zip(names, formula(counts).tolist(), strict=True)) for name, formula in FORMULAS.items()}
    return Inspection(splits, sorted(defects, key=lambda defect: order.index(defect.level)), weights)


def _describe(facts: SplitStatistics) -> dict[str, Any]:
    counts = facts.counts
    labelled = max(int(counts.pixels.sum()), 1)
    return {
        "images": len(facts.samples),
        "bad_images": len(facts.bad),
        "pixels": facts.pixels,
        "ignored_share": facts.ignored / max(facts.pixels, 1),
        "overlap_share": sum(sample.overlap for sample in facts.samples.values()) / max(facts.pixels, 1),
        "classes": [
            {"name": name, "pixels": int(pixels), "share": int(pixels) / labelled, "images": int(images)}
            for name, pixels, images in zip(facts.dataset.class_names, counts.pixels, counts.images, strict=True)
        ],
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in facts.sizes.most_common()],
    }
