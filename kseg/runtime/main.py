"""Runs a command: errors become one line and an exit code."""

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

from kseg.runtime.xla_flags import order_for_memory
from kseg.utils.errors import KsegError

BACKENDS = ("jax", "tensorflow", "torch")
GC_THRESHOLD = 10_000, 10, 10
"""Of Python's garbage collector. Python's default of 700 scans a model's objects so often that starting takes a second longer."""


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Calls main(sys.argv). A KsegError becomes one line on stderr and exit code 2; Ctrl-C becomes exit code 130."""
    gc.set_threshold(*GC_THRESHOLD)
    try:
        if _backend() == "jax":
            order_for_memory()
        main(sys.argv)
    except KsegError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output is gone; stdout must not be flushed into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _backend() -> str:
    """Returns Keras's backend, checked here because Keras ends with a traceback if it is unknown or not installed."""
    backend = os.environ.get("KERAS_BACKEND", "jax")
    if backend not in BACKENDS:
        raise KsegError(f"KERAS_BACKEND={backend}: must be one of {', '.join(BACKENDS)}")
    if importlib.util.find_spec(backend) is None:
        raise KsegError(
            f"KERAS_BACKEND={backend}: {backend} is not installed; install it (pip install {backend}) or unset the variable"
        )
    return backend
