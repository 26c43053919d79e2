"""The progress bar of every command."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, description: str, *, delay: float = 0.0, disable: bool = False, unit: str = "img") -> Any:
    """Returns a tqdm bar on stderr, advanced by update(). It disappears when done; in a log file it prints every 10 seconds.

    total: None if unknown. delay: seconds before the bar appears. unit: the name of what is counted.
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
