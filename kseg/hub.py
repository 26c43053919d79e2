"""Shares a trained model as a folder, and on the Hub: python -m kseg.hub --run_dir=R --folder=DIR [--push=owner/name] [--help].

save_folder, load_folder and push are the same for Python.
"""

from collections.abc import Sequence

from kseg.config import HubConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Writes the model of a run directory as a folder to share, with a model card, and uploads it to the Hub if you say so.

  python -m kseg.hub --run_dir=runs/NAME --folder=shared --license=apache-2.0
  python -m kseg.hub --run_dir=runs/NAME --folder=shared --push=owner/name
  python -m kseg.hub --folder=shared --push=owner/name          once you have read, and perhaps mended, its README.md

Weights are in model.safetensors, what model it is in config.json; kseg.sharing.hub.load_folder loads them without running code from the
folder. To upload, log in with `hf auth login`, or set HF_TOKEN.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(HubConfig, argv, DESCRIPTION)
    from kseg.sharing.hub import push, share_run  # imported late, so that --help answers at once

    assert config.folder is not None  # HubConfig requires it
    if config.run_dir is not None:
        share_run(config)
        print(f"wrote   {config.folder}: config.json, model.safetensors, README.md; read the last before you share it")
    if config.push is not None:
        address = push(config.folder, config.push, private=config.private)
        print(f"pushed  {address}{' (private)' if config.private else ''}")


if __name__ == "__main__":
    run_main(main)
