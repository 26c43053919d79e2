"""Trains a model: python -m kseg.train --model=deeplabv3plus [--help]."""

import shlex
from collections.abc import Collection, Sequence

from kseg.config import TrainConfig
from kseg.config.command_line import parse_given
from kseg.runtime.main import run_main

DESCRIPTION = """
Trains a segmentation model and writes a run directory: checkpoints, metrics.csv, model.keras and report.html.

  python -m kseg.train --model=deeplabv3plus                                a demonstration without downloads
  python -m kseg.train --dataset=coco --data_dir=DIR --image_size=256       your own data
  python -m kseg.train --flagfile=flags/camvid.txt --data_dir=DIR           settings from a file
  python -m kseg.train --dry_run ...                                        one batch: does it run, how much memory does it need
  python -m kseg.train --resume --run_dir=R                                 continue a run that was stopped

KERAS_BACKEND=jax (the default), tensorflow or torch selects the backend.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config, given = parse_given(TrainConfig, argv, DESCRIPTION)
    from kseg.runtime import hosts  # imported late: --help needs no Keras

    with hosts.run_distributed(config.devices):
        _train(config, given)


def _train(config: TrainConfig, given: Collection[str]) -> None:
    from kseg.runtime.compilation_cache import enable_compilation_cache
    from kseg.training.loop import train

    enable_compilation_cache(config.devices.compilation_cache)
    result = train(config, given)
    print(result.summary())
    if result.stopped is not None:
        path = shlex.quote(str(result.run.path))
        print(f"stopped early; to continue: python -m kseg.train --resume --run_dir={path}")
        raise SystemExit(result.stopped)


if __name__ == "__main__":
    run_main(main)
