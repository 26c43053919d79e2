"""A page to try a model in a browser: python -m kseg.demo --run_dir=R [--help]."""

from collections.abc import Sequence

from kseg.config import DemoConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main

DESCRIPTION = """
Serves a page on this machine to try a model: drop a picture, see what the model makes of each pixel.

  python -m kseg.demo --run_dir=runs/NAME
  python -m kseg.demo --folder=owner/name
  python -m kseg.demo --model_file=model.keras --image_size=256 --port=0

It ends with Ctrl-C. Pictures stay on this machine, and are not kept. --host=0.0.0.0 lets others on the network open it, too.
"""


def main(argv: Sequence[str]) -> None:
    config = parse(DemoConfig, argv, DESCRIPTION)
    from kseg.sharing.demo_server import serve  # imported late, so that --help answers at once

    serve(config)


if __name__ == "__main__":
    run_main(main)
