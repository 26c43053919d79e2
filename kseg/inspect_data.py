"""Finds what is wrong with a data set: python -m kseg.inspect_data --dataset=coco --data_dir=DIR [--help]."""

from collections.abc import Sequence

from kseg.config import InspectConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Reads every image and label map of a data set and says what they hold and what is wrong with them, before training.

  python -m kseg.inspect_data --dataset=coco --data_dir=DIR
  python -m kseg.inspect_data --dataset=coco --data_dir=DIR --image_size=256 --augment=light --samples=20

Writes inspection.html, to look at, and inspection.json: all defects, and class weights for kseg.train --class_weights=FILE.
Exit code: 0 if the data can be used, 1 if there are errors (what would stop training or make its score untrue), 2 for misuse.
"""
_SHOWN = 20  # lines of one level; the files have all


def main(argv: Sequence[str]) -> None:
    config = parse(InspectConfig, argv, DESCRIPTION)
    from kseg.reports.data_report import inspect_data  # imported late, so that --help answers at once

    inspection, page = inspect_data(config)
    for facts in inspection.splits:
        share = facts.ignored / max(facts.pixels, 1)
        print(f"{facts.split}: {len(facts.samples)} images, {len(facts.bad)} unusable, {share:.1%} of the pixels ignored")
    for level in ("error", "warning", "note"):
        defects = [defect for defect in inspection.defects if defect.level == level]
        for defect in defects[:_SHOWN]:
            print(f"{level}: {defect.split}: {defect.message} {defect.advice}")
        if len(defects) > _SHOWN:
            print(f"{level}: {len(defects) - _SHOWN} more; {page} has all")
    print(f"{'usable' if inspection.usable else 'not usable yet: mend the errors'}, {page}")
    if not inspection.usable:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
