"""Writes a trained model for programs without kseg: python -m kseg.export --run_dir=R --format=onnx --output=DIR [--help]."""

from collections.abc import Sequence

from kseg.config import ExportConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Writes the model of a run directory for programs that have neither kseg nor Keras.

  python -m kseg.export --run_dir=runs/NAME --format=stablehlo --output=exported
  python -m kseg.export --run_dir=runs/NAME --format=onnx --argmax --output=exported
  python -m kseg.export --run_dir=runs/NAME --format=saved_model --image_size=512x1024 --output=exported

All take uint8 RGB images [B, H, W, 3] of one size, in batches of any. The folder has a kseg.json, which says
classes, colours and sizes; docs/export.md shows how each format is loaded.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(ExportConfig, argv, DESCRIPTION)
    from kseg.sharing.export.folder import export_run  # imported late, so that --help answers at once

    print(export_run(config))


if __name__ == "__main__":
    run_main(main)
