"""Suggests a learning rate: python -m kseg.find_lr --model=deeplabv3plus [any flag of kseg.train] [--help]."""

from collections.abc import Sequence

from kseg.config import LrFinderConfig
from kseg.config.command_line import parse_given
from kseg.runtime.main import run_main

DESCRIPTION = """
Suggests a learning rate for a training run (Smith 2017, arXiv:1506.01186). It trains while the rate rises by the same factor
every step until the loss diverges, and draws the loss over the rate.

  python -m kseg.find_lr --dataset=coco --data_dir=DIR --image_size=256
  python -m kseg.find_lr --flagfile=flags/camvid.txt --data_dir=DIR --lr_max=10 --output=camvid_lr.png

Takes every flag of kseg.train; pass the same ones as for the run. Writes only the picture.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config, given = parse_given(LrFinderConfig, argv, DESCRIPTION)
    from kseg.training.lr_finder import run_lr_finder, write_picture  # imported late: --help needs no Keras

    result = run_lr_finder(config, given)
    write_picture(config.output, result)
    print(f"{result.summary()}, {config.output}")


if __name__ == "__main__":
    run_main(main)
