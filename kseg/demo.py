"""A page to try a model in a browser: python -m kseg.demo --run_dir=R [--help]."""

import contextlib
from collections.abc import Sequence

from kseg.config import DemoConfig
from kseg.flags import parse, run_main

DESCRIPTION = """
Serves a page on this machine to try a model: drop a picture, see what the model makes of each pixel.

  python -m kseg.demo --run_dir=runs/NAME
  python -m kseg.demo --folder=owner/name
  python -m kseg.demo --model_file=model.keras --image_size=256 --port=0

It ends with Ctrl-C. Pictures stay on this machine, and are not kept. --host=0.0.0.0 lets others on the network open it, too.
"""


def demo(config: DemoConfig) -> None:
    """Serves until it is interrupted. Raises KsegError for whatever the user can mend."""
    from kseg.compilation_cache import keep_compiled_programs
    from kseg.demo_model import open_demo_model
    from kseg.demo_server import DemoServer

    keep_compiled_programs(config.compilation_cache)
    with DemoServer(open_demo_model(config), config.host, config.port) as server:
        where = "" if server.local else "; whoever reaches this machine can open it"
        print(f"open {server.url} in a browser{where}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print("ended")


def main(argv: Sequence[str]) -> None:
    demo(parse(DemoConfig, argv, DESCRIPTION))


if __name__ == "__main__":
    run_main(main)
