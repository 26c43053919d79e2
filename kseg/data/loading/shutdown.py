"""Ends the process safely while TensorFlow's threads still call Python.

A thread that asks for Python's lock while the interpreter shuts down never returns from its call. TensorFlow frees its iterator
at that time and would wait for the thread forever. A process that ends within an epoch, after an error for example, would
sometimes hang after its last line.
"""

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

QUIET = 0.1
"""Seconds without a call after which none will follow: TensorFlow reads only a few samples ahead."""
TIMEOUT = 30.0
"""Seconds to wait for calls at most."""


class TrackedCalls:
    """Decorates functions that TensorFlow calls; the process waits for calls in progress before it ends.

    Attributes:
        exiting: True once the process is about to end. Functions should then raise StopIteration, so that TensorFlow ends the
            batches without a message on stderr.
    """

    def __init__(self) -> None:
        self.exiting = False
        self._lock = threading.Lock()
        self._active = 0
        self._last = float("-inf")
        atexit.register(self._wait)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments):
            with self._lock:
                self._active += 1
            try:
                return function(*arguments)
            finally:
                with self._lock:
                    self._active -= 1
                    self._last = time.monotonic()

        return called

    def _wait(self) -> None:
        self.exiting = True
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until and (self._active or time.monotonic() < self._last + QUIET):
            time.sleep(QUIET / 10)
