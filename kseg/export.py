"""Writes a trained model for programs without kseg: python -m kseg.export --model=SOURCE --format=onnx --output=DIR [--help]."""

from collections.abc import Sequence

from kseg.config import ExportConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Writes a trained model for programs that have neither kseg nor Keras.

  python -m kseg.export --model=runs/NAME --format=stablehlo --output=exported
  python -m kseg.export --model=runs/NAME --format=onnx --result=labels --output=exported
  python -m kseg.export --model=hf://owner/name --format=saved_model --image_size=512x1024 --output=exported

The exported model takes uint8 RGB images [B, H, W, 3] of one size, or of every size with --image_size=any, in batches of any
size. kseg.json in the folder lists classes, colours and sizes. docs/guides/export.md shows how to load each format.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(ExportConfig, argv, DESCRIPTION)
    from kseg.sharing.export.folder import export  # imported late, so that --help is fast

    print(export(config))


if __name__ == "__main__":
    run_main(main)
