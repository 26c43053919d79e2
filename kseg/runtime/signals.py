"""Handles SIGTERM and Ctrl-C during training: the run stops at the end of a step, after a checkpoint."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Leaves fit after a signal, when the run has been saved."""


class StopRequest:
    """Holds the signal that asked the run to stop.

    signal: its number, or None. exit_code: the exit code that a shell expects after this signal.
    """

    signal: int | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Yields a StopRequest that receives the first SIGINT or SIGTERM. A second signal ends the process at once.

    Python allows handlers in the main thread only; in other threads this does nothing.
    """
    request = StopRequest()

    def note(number, frame):
        if request.signal is not None:
            os._exit(128 + number)  # Files are whole at any moment, and unwinding could wait for what the user gave up on.
        request.signal = number
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(f"\n{name}: saving after this step or validation; once more stops at once", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
