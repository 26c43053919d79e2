"""Converts a PyTorch checkpoint to Keras, or back: python -m kseg.convert --checkpoint=F --output=G [--help]."""

from collections.abc import Sequence

from kseg.config import ConvertConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Converts a checkpoint of segmentation_models.pytorch, torchvision or timm to a Keras model file, or back.

  python -m kseg.convert --checkpoint=unet.pth --model=unet --backbone=resnet34 --num_classes=12 --output=model.keras
  python -m kseg.convert --to=torch --checkpoint=model.keras --output=unet.safetensors

Every tensor is used, or its name is printed. No code of a checkpoint is run. PyTorch loads the result with strict=True.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(ConvertConfig, argv, DESCRIPTION)
    from kseg.models.convert import convert  # imported late: --help needs no Keras

    print(convert(config))


if __name__ == "__main__":
    run_main(main)
