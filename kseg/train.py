"""Trains a model: python -m kseg.train --model=deeplabv3plus [--help]."""

import shlex
from collections.abc import Collection, Sequence

from kseg.config import TrainConfig
from kseg.flags import parse_given, run_main

DESCRIPTION = """
Trains a semantic-segmentation model and writes a run directory: checkpoints, metrics.csv, model.keras and report.html.

  python -m kseg.train --model=deeplabv3plus                                the offline demonstration
  python -m kseg.train --dataset=coco --data_dir=DIR --image_size=256       your own data
  python -m kseg.train --flagfile=flags/camvid.txt --data_dir=DIR           an experiment
  python -m kseg.train --dry_run ...                                        whether it would work, and what it would need
  python -m kseg.train --resume --run_dir=R                                 goes on with a run that was stopped

KERAS_BACKEND=jax (the default), tensorflow or torch chooses the backend.
"""


def main(argv: Sequence[str]) -> None:
    config, given = parse_given(TrainConfig, argv, DESCRIPTION)
    from kseg import hosts  # late, so that --help and a mistyped flag answer at once

    with hosts.as_one(config.devices):
        _train(config, given)


def _train(config: TrainConfig, given: Collection[str]) -> None:
    from kseg.compilation_cache import keep_compiled_programs
    from kseg.training import train

    keep_compiled_programs(config.devices.compilation_cache)
    result = train(config, given)
    if config.trial.dry_run:
        print(f"dry run: one batch went through everything, {result.seconds:.0f} s; nothing was kept")
        return
    scores, config = result.evaluation.scores, result.config
    print(f"predicting one class everywhere would score {scores.constant_mean_iou:.4f}")
    where = result.run.report if config.tracking.report else result.run.path
    print(f"{result.evaluation.summary(result.split)}, {result.seconds:.0f} s, {where}")
    if result.stopped is not None:
        path = shlex.quote(str(result.run.path))
        print(f"stopped before its end; to go on: python -m kseg.train --resume --run_dir={path}")
        raise SystemExit(result.stopped)


if __name__ == "__main__":
    run_main(main)
