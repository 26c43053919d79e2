"""Converts checkpoints from PyTorch and back: python -m kseg.convert --checkpoint=F --output=G [--help]."""

from collections.abc import Sequence

from kseg.config import ConvertConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Reads a PyTorch checkpoint of segmentation_models.pytorch or torchvision into a Keras model file, or writes one.

  python -m kseg.convert --checkpoint=unet.pth --model=unet --backbone=resnet34 --num_classes=12 --output=model.keras
  python -m kseg.convert --to=torch --checkpoint=model.keras --output=unet.safetensors

Every tensor is used or named; no code from a checkpoint is run. The way back loads with strict=True.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(ConvertConfig, argv, DESCRIPTION)
    from kseg.models.convert import convert  # imported late, so that --help answers at once

    print(convert(config))


if __name__ == "__main__":
    run_main(main)
