"""Predicts label maps: python -m kseg.predict --model=runs/NAME photos/ [--help]."""

import sys
from collections.abc import Sequence

from kseg.config import PredictConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Predicts image files and folders, a split of a data set, or a video with a trained model.

  python -m kseg.predict --model=runs/NAME photos more/*.png
  python -m kseg.predict --model=runs/NAME --split=test --write=submission
  python -m kseg.predict --model=runs/NAME --video=drive.mp4 --output=drive --write=overlays

Writes labels/NAME.png, overlays/NAME.png, probabilities/NAME.npy, results.json and submission.csv, as --write says. A split
needs no annotations: the COCO file's list may be empty. Exit code: 0; 1 if some input files were skipped and all others are
done; 2 if nothing could be done.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(PredictConfig, argv, DESCRIPTION)
    from kseg.inference.predict import predict  # imported late: --help needs no Keras
    from kseg.inference.writers import outputs

    done = predict(config)
    for line in done.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    skipped = f", skipped {len(done.skipped)}" if done.skipped else ""
    print(f"predicted {done.count} {done.what}{skipped}: {', '.join(map(str, outputs(config)))}")
    if done.skipped:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
