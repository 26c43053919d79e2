"""Shares a trained model as a folder or on the Hub: python -m kseg.hub --model=runs/x --output=DIR [--push=owner/name] [--help].

In Python: kseg.hub.save_folder, load_folder and push.
"""

from collections.abc import Sequence

from kseg.config import HubConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main
from kseg.sharing.hub import load_folder, push, save_folder, share

__all__ = ["load_folder", "main", "push", "save_folder"]

DESCRIPTION = """
Writes the model of a run as a folder to share, with a model card, and uploads it to the Hugging Face Hub.

  python -m kseg.hub --model=runs/NAME --output=shared --license=apache-2.0
  python -m kseg.hub --model=runs/NAME --output=shared --push=owner/name
  python -m kseg.hub --model=shared --push=owner/name     upload an existing folder, after you edited its README.md

model.safetensors holds the weights, config.json describes the model. kseg.hub.load_folder loads the folder without running
code from it. To upload, log in with `hf auth login`, or set HF_TOKEN.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    for line in share(parse(HubConfig, argv, DESCRIPTION)):
        print(line)


if __name__ == "__main__":
    run_main(main)
