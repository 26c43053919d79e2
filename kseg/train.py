"""Trains a model: python -m kseg.train --model=deeplabv3plus [--help]."""

from collections.abc import Sequence

from kseg.config import TrainConfig
from kseg.flags import parse, run_main

DESCRIPTION = """
Trains a semantic-segmentation model and writes a run directory: checkpoints, metrics.csv, model.keras and report.html.

  python -m kseg.train --model=deeplabv3plus                                the offline demonstration
  python -m kseg.train --dataset=coco --data_dir=DIR --image_size=256       your own data
  python -m kseg.train --flagfile=flags/camvid.txt --data_dir=DIR           an experiment
  python -m kseg.train --dry_run ...                                        whether it would work, and what it would need

KERAS_BACKEND=jax (the default), tensorflow or torch chooses the backend.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(TrainConfig, argv, DESCRIPTION)
    from kseg.training import train  # late, so that --help and a mistyped flag answer at once

    result = train(config)
    if config.trial.dry_run:
        print(f"dry run: one batch went through everything, {result.seconds:.0f} s; nothing was kept")
        return
    scores = result.evaluation.scores
    print(f"predicting one class everywhere would score {scores.constant_mean_iou:.4f}")
    where = result.run.report if config.tracking.report else result.run.path
    print(f"{result.evaluation.summary(result.split)}, {result.seconds:.0f} s, {where}")


if __name__ == "__main__":
    run_main(main)
