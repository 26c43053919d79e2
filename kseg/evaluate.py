"""Scores a trained model: python -m kseg.evaluate --run_dir=R [--split=val] [--help]."""

from collections.abc import Sequence

from kseg.config import EvaluateConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Scores the model of a run directory, or of a .keras file, on a whole split, at the labels' own size, and prints a table by class.

  python -m kseg.evaluate --run_dir=runs/NAME
  python -m kseg.evaluate --run_dir=runs/NAME --split=test --data_dir=DIR
  python -m kseg.evaluate --run_dir=runs/NAME --window=512 --tta=flips
  python -m kseg.evaluate --model_file=model.keras --dataset=coco --data_dir=DIR --image_size=256

A run that was stopped is scored by its best checkpoint, or by its last. What the numbers mean: docs/evaluation.md.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(EvaluateConfig, argv, DESCRIPTION)
    from kseg.inference.evaluate import evaluate  # imported late, so that --help answers at once

    evaluation, trained = evaluate(config)
    print(evaluation.table())
    how = "".join(f", {flag} {value}" for flag, value in trained.how.items())
    print(f"{evaluation.summary(trained.split)}, {trained.path}{how}")


if __name__ == "__main__":
    run_main(main)
