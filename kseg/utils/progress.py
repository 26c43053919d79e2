"""The one way kseg draws a progress bar."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, description: str, *, delay: float = 0.0, disable: bool = False, unit: str = "img") -> Any:
    """Returns a tqdm bar over images on stderr that vanishes when done, to be advanced by update(); in a log file it says
    little, every 10 seconds.

    total: None where nobody knows. delay: seconds before it shows at all. unit: what is counted.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        delay=delay,
        disable=disable,
        dynamic_ncols=True,
        mininterval=0.2 if terminal else 10.0,
        file=sys.stderr,
    )
