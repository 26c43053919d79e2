"""Scores a trained model: python -m kseg.evaluate --run_dir=R [--split=val] [--help]."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kseg.config import EvaluateConfig
from kseg.errors import KsegError
from kseg.flags import parse, run_main

DESCRIPTION = """
Scores the model of a run directory on a whole split, at the labels' own size, and prints a table by class.

  python -m kseg.evaluate --run_dir=runs/NAME
  python -m kseg.evaluate --run_dir=runs/NAME --split=test --data_dir=DIR

A run that was stopped is scored by its best checkpoint, or by its last.
"""


def evaluate(config: EvaluateConfig):
    """Returns (Evaluation, split, the file the model came from). Raises KsegError for whatever the user can mend."""
    from kseg.data.check import open_split
    from kseg.data.workers import worker_pool
    from kseg.run import RunDir, load_model
    from kseg.scoring import Predictor, write_evaluation

    assert config.run_dir is not None  # EvaluateConfig requires it
    run = RunDir(config.run_dir)
    trained = run.read_config()
    chosen = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(trained.data)}
    data = dataclasses.replace(trained.data, **{name: value for name, value in chosen.items() if value is not None})
    split = config.split or trained.val_split
    dataset, skipped = open_split(data, split)
    for line in skipped:
        print(f"skipped: {line}")
    path = run.newest_model()
    model = load_model(path)
    if model.output.shape[-1] != len(dataset.class_names):
        raise KsegError(
            f"{path} has {model.output.shape[-1]} classes, but split {split} of the data has {len(dataset.class_names)}"
        )
    batch_size = config.batch_size or trained.batch_size
    with worker_pool(config.workers) as pool:
        predictor = Predictor(model, dataset, image_size=trained.image_size, batch_size=batch_size, pool=pool)
        evaluation = predictor.evaluate()
    if config.output:
        write_evaluation(Path(config.output), evaluation, split)
    return evaluation, split, path


def main(argv: Sequence[str]) -> None:
    config = parse(EvaluateConfig, argv, DESCRIPTION)
    evaluation, split, path = evaluate(config)
    print(evaluation.table())
    print(f"{evaluation.summary(split)}, {path}")


if __name__ == "__main__":
    run_main(main)
