"""Scores a trained model: python -m kseg.evaluate --run_dir=R [--split=val] [--help]."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kseg.config import EvaluateConfig
from kseg.errors import KsegError
from kseg.flags import parse, run_main

if TYPE_CHECKING:
    from kseg.evaluation import Evaluation
    from kseg.trained import Trained

DESCRIPTION = """
Scores the model of a run directory, or of a .keras file, on a whole split, at the labels' own size, and prints a table by class.

  python -m kseg.evaluate --run_dir=runs/NAME
  python -m kseg.evaluate --run_dir=runs/NAME --split=test --data_dir=DIR
  python -m kseg.evaluate --run_dir=runs/NAME --window=512 --tta=flips
  python -m kseg.evaluate --model_file=model.keras --dataset=coco --data_dir=DIR --image_size=256

A run that was stopped is scored by its best checkpoint, or by its last. What the numbers mean: docs/evaluation.md.
"""


def evaluate(config: EvaluateConfig) -> "tuple[Evaluation, Trained]":
    """Returns the scores and what was scored; writes what the flags name. Raises KsegError for whatever the user can mend."""
    from kseg.compilation_cache import keep_compiled_programs
    from kseg.data.workers import worker_pool
    from kseg.distribution import data_parallel
    from kseg.evaluation import write_evaluation, write_per_image
    from kseg.trained import open_trained

    _check_outputs(config)
    keep_compiled_programs(config.compilation_cache)
    with data_parallel(config.distribution), worker_pool(config.workers) as pool:
        trained = open_trained(config, pool, confidence=config.calibration)
        evaluation = trained.predictor.evaluate(boundary=config.boundary)
    try:
        if config.output:
            write_evaluation(Path(config.output), evaluation, trained.split, trained.how)
        if config.per_image:
            write_per_image(Path(config.per_image), evaluation, trained.dataset)
    except OSError as error:
        raise KsegError(f"cannot write {error.filename or 'the scores'}: {error.strerror or error}") from None
    return evaluation, trained


def _check_outputs(config: EvaluateConfig) -> None:
    """Raises KsegError, before anything is scored, for outputs that cannot be written."""
    for flag in ("output", "per_image"):
        if file := getattr(config, flag):
            try:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise KsegError(f"--{flag}={file}: cannot be written ({error.strerror})") from None
            if Path(file).is_dir():
                raise KsegError(f"--{flag}={file}: is a folder; name a file")


def main(argv: Sequence[str]) -> None:
    config = parse(EvaluateConfig, argv, DESCRIPTION)
    evaluation, trained = evaluate(config)
    print(evaluation.table())
    how = "".join(f", {flag} {value}" for flag, value in trained.how.items())
    print(f"{evaluation.summary(trained.split)}, {trained.path}{how}")


if __name__ == "__main__":
    run_main(main)
