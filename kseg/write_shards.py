"""Writes a data set as TFDS/ArrayRecord shards: python -m kseg.write_shards --dataset=coco --data_dir=D --output=O [--help]."""

from collections.abc import Sequence

from kseg.config import ShardsConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Writes a data set as a TensorFlow Datasets data set of ArrayRecord shards: a few large files, for storage over a network. Image
files are stored unchanged, label maps as PNG.

  python -m kseg.write_shards --dataset=coco --data_dir=DIR --output=SHARDS --name=litter
  python -m kseg.train --dataset=tfds --data_dir=SHARDS --tfds_name=litter
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(ShardsConfig, argv, DESCRIPTION)
    from kseg.data.shards import write_shards  # imported late: --help needs no Keras

    folder = write_shards(config)
    print(f"wrote {folder}")
    print(f"train on it: python -m kseg.train --dataset=tfds --data_dir={config.output} --tfds_name={config.name}")


if __name__ == "__main__":
    run_main(main)
