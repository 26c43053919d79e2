"""Scores a trained model: python -m kseg.evaluate --run_dir=R [--split=val] [--help]."""

from collections.abc import Sequence
from pathlib import Path

from kseg.config import EvaluateConfig
from kseg.flags import parse, run_main

DESCRIPTION = """
Scores the model of a run directory on a whole split, at the labels' own size, and prints a table by class.

  python -m kseg.evaluate --run_dir=runs/NAME
  python -m kseg.evaluate --run_dir=runs/NAME --split=test --data_dir=DIR

A run that was stopped is scored by its best checkpoint, or by its last.
"""


def evaluate(config: EvaluateConfig):
    """Returns (Evaluation, split, the file the model came from). Raises KsegError for whatever the user can mend."""
    from kseg.compilation_cache import keep_compiled_programs
    from kseg.data.workers import worker_pool
    from kseg.distribution import data_parallel
    from kseg.scoring import write_evaluation
    from kseg.trained import open_trained

    keep_compiled_programs(config.compilation_cache)
    with data_parallel(config.distribution), worker_pool(config.workers) as pool:
        trained = open_trained(config, pool)
        evaluation = trained.predictor.evaluate()
    if config.output:
        write_evaluation(Path(config.output), evaluation, trained.split)
    return evaluation, trained.split, trained.path


def main(argv: Sequence[str]) -> None:
    config = parse(EvaluateConfig, argv, DESCRIPTION)
    evaluation, split, path = evaluate(config)
    print(evaluation.table())
    print(f"{evaluation.summary(split)}, {path}")


if __name__ == "__main__":
    run_main(main)
