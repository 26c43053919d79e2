"""Serves a page to try a model in a browser: python -m kseg.demo --model=SOURCE [--help]."""

from collections.abc import Sequence

from kseg.config import DemoConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Serves a page on this machine to try a model: drop an image on it to see the predicted class of every pixel.

  python -m kseg.demo --model=runs/NAME
  python -m kseg.demo --model=hf://owner/name
  python -m kseg.demo --model=model.keras --image_size=256 --port=0

Ctrl-C stops the server. Images stay on this machine and are not stored. --host=0.0.0.0 lets others on the network open the page.
"""


def main(argv: Sequence[str]) -> None:
    """Runs the command. argv[0] is the program."""
    config = parse(DemoConfig, argv, DESCRIPTION)
    from kseg.sharing.demo_server import serve  # imported late, so that --help is fast

    serve(config)


if __name__ == "__main__":
    run_main(main)
