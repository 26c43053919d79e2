"""Writes a trained model for programs without kseg: python -m kseg.export --run_dir=R --format=onnx --output=DIR [--help]."""

from collections.abc import Sequence

from kseg.config import ExportConfig
from kseg.flags import parse, run_main

DESCRIPTION = """
Writes the model of a run directory for programs that have neither kseg nor Keras.

  python -m kseg.export --run_dir=runs/NAME --format=stablehlo --output=exported
  python -m kseg.export --run_dir=runs/NAME --format=onnx --argmax --output=exported
  python -m kseg.export --run_dir=runs/NAME --format=saved_model --image_size=512x1024 --output=exported

All take uint8 RGB images [B, H, W, 3] of one size, in batches of any. The folder has a kseg.json, which says
classes, colours and sizes; docs/export.md shows how each format is loaded.
"""


def export(config: ExportConfig) -> str:
    """Exports and returns what there is to say about it. Raises KsegError for whatever the user can mend."""
    from kseg.exporters.folder import export_run

    return export_run(config)


def main(argv: Sequence[str]) -> None:
    print(export(parse(ExportConfig, argv, DESCRIPTION)))


if __name__ == "__main__":
    run_main(main)
