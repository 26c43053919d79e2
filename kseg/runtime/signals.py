"""SIGTERM and Ctrl-C during training: noted at once, obeyed at the end of a step, where the run can be saved whole."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Leaves fit after the run was saved because of a signal."""


class StopRequest:
    """signal: the number of the signal that came, or None. exit_code: what a shell expects of a process that it ended."""

    signal: int | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else 128 + self.signal


@contextlib.contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Notes the first SIGINT or SIGTERM in what it yields instead of acting on it; a second ends the process at once.

    In another thread than the main one, where Python allows no handlers, it does nothing.
    """
    request = StopRequest()

    def note(number, frame):
        if request.signal is not None:
            os._exit(128 + number)  # Files are whole at any moment, and unwinding might wait for what the user gave up on.
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
