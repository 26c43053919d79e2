"""Scores a trained model: python -m kseg.evaluate --model=runs/NAME [--split=val] [--help]."""

from collections.abc import Sequence

from kseg.config import EvaluateConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Scores a trained model on a whole split, at the labels' own size, and prints a table by class.

  python -m kseg.evaluate --model=runs/NAME
  python -m kseg.evaluate --model=runs/NAME --split=test --data_dir=DIR
  python -m kseg.evaluate --model=runs/NAME --window=512 --tta=flips
  python -m kseg.evaluate --model=model.keras --dataset=coco --data_dir=DIR --image_size=256

Of a run that was stopped, it scores the best checkpoint, or else the last.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(EvaluateConfig, argv, DESCRIPTION)
    from kseg.inference.evaluate import evaluate  # imported late: --help needs no Keras

    evaluation, trained = evaluate(config)
    print(evaluation.table())
    how = "".join(f", {flag} {value}" for flag, value in trained.how.items())
    print(f"{evaluation.summary(trained.split)}, {trained.shown}{how}")


if __name__ == "__main__":
    run_main(main)
