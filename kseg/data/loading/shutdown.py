"""How a process ends while TensorFlow's threads still call Python.

A thread that asks for Python's lock when the interpreter is on its way out never comes back from its call. TensorFlow, whose
iterator is freed just then, would wait for it forever: a process that was left amid an epoch, by an error for instance, would now
and then hang after its last line.
"""

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

QUIET = 0.1
"""Seconds without a call after which there will be none: TensorFlow reads a few samples ahead, no more."""
PATIENCE = 30.0
"""Seconds that calls are waited for at most."""


class Calls:
    """Wraps functions that TensorFlow calls; the end of the process waits for calls under way.

    Attributes:
        leaving: whether the process is about to end. Functions that take long, or are called for every sample, had better raise
            StopIteration then, at which TensorFlow ends the batches without a word on stderr.
    """

    def __init__(self) -> None:
        self.leaving = False
        self._lock = threading.Lock()
        self._active = 0
        self._last = float("-inf")
        atexit.register(self._leave)

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

    def _leave(self) -> None:
        self.leaving = True
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and (self._active or time.monotonic() < self._last + QUIET):
            time.sleep(QUIET / 10)
