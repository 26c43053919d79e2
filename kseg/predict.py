"""Predicts label maps: python -m kseg.predict --run_dir=R --split=test --submission=FILE [--help]."""

import sys
from collections.abc import Sequence

from kseg.config import PredictConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Predicts every image of a split, of files and folders, or of a video, with the model of a run directory or of a .keras file.

  python -m kseg.predict --run_dir=runs/NAME --split=test --submission=submission.csv
  python -m kseg.predict --run_dir=runs/NAME --input=photos,more/*.png --labels_dir=labels --overlays_dir=overlays
  python -m kseg.predict --run_dir=runs/NAME --video=drive.mp4 --overlay_video=overlay.mp4

A split needs no annotations: a COCO file whose list of annotations is empty will do. Exit code: 0; 1 if files of --input were
left out, and all others are done; 2 if nothing could be done. docs/prediction.md says more.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(PredictConfig, argv, DESCRIPTION)
    from kseg.inference.predict import predict  # imported late, so that --help answers at once
    from kseg.inference.writers import outputs

    done = predict(config)
    for line in done.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    left = f", {len(done.skipped)} left out" if done.skipped else ""
    print(f"predicted {done.count} {done.what}{left}: {', '.join(outputs(config))}")
    if done.skipped:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
