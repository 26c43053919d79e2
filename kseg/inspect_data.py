"""Finds problems in a data set: python -m kseg.inspect_data --dataset=coco --data_dir=DIR [--help]."""

from collections.abc import Sequence

from kseg.config import InspectConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Reads every image and label map of a data set before training, and reports statistics and problems.

  python -m kseg.inspect_data --dataset=coco --data_dir=DIR
  python -m kseg.inspect_data --dataset=coco --data_dir=DIR --image_size=256 --augment=light --samples=20

Writes inspection.html, a page to look at, and inspection.json, with all problems and with class weights for
kseg.train --class_weights=FILE. Says what each label value became, and ends with the command that trains on these data. Exit
code: 0 if the data can be used; 1 if there are errors, which would stop training or falsify its score; 2 for wrong flags.
"""
_SHOWN = 20  # lines per level; the files list all


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(InspectConfig, argv, DESCRIPTION)
    from kseg.reports.data_report import inspect_data  # imported late: --help needs no Keras

    inspection, page = inspect_data(config)
    from kseg.data.reading import describe_readings

    print("\n".join(describe_readings({split.split: split.dataset for split in inspection.splits})))
    for split in inspection.splits:
        share = split.ignored / max(split.pixels, 1)
        print(f"{split.split}: {len(split.samples)} images, {len(split.bad)} unusable, {share:.1%} of the pixels ignored")
    for level in ("error", "warning", "note"):
        issues = [issue for issue in inspection.issues if issue.level == level]
        for issue in issues[:_SHOWN]:
            print(f"{level}: {issue.split}: {issue.message} {issue.advice}")
        if len(issues) > _SHOWN:
            print(f"{level}: {len(issues) - _SHOWN} more in {page}")
    print(f"{'usable' if inspection.usable else 'not usable yet: fix the errors'}, {page}")
    print(f"{'train' if inspection.usable else 'then train'} on it: {inspection.command}")
    if not inspection.usable:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
