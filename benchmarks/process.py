"""Worker processes that measure on request, and what Linux says of a process's memory and time."""

import contextlib
import functools
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT


class Worker:
    """A process that measures on request, so that several can alternate without sharing an interpreter.

    It runs `python -m benchmarks.MODULE` with JSON settings as its argument, and writes a JSON line when it is ready. For each
    line that it reads it writes another. environment: variables beside our own; None removes one.
    """

    def __init__(self, module: str, settings: dict[str, Any], environment: dict[str, str | None] | None = None):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, **(environment or {}), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in variables.items() if value is not None},
        )

    @functools.cached_property
    def ready(self) -> Any:
        """The first answer; waits for it."""
        return self._read()

    def ask(self, line: str) -> Any:
        """Returns the answer to one line."""
        _ = self.ready
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a benchmark's worker ended with exit code {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, error_class: type | None, *error: object) -> None:
        if error_class:
            self.kill()  # it may compile for minutes
        self.close()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process, and waits for its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # of a process that was killed
            self._process.stdin.close()  # the worker's loop ends with its input
        self._process.wait()
        self._process.stdout.close()


class LastingWorker:
    """A worker for many pieces of work. If it ends or takes too long, another one is started for the next piece.

    Its module answers each JSON line with another. Arguments: those of Worker.
    """

    def __init__(self, *arguments: Any):
        self._arguments = arguments
        self._worker: Worker | None = None

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """Returns the answer, or {"failed": reason} if the worker ended or did not answer within `limit` seconds."""
        if self._worker is None:
            self._worker = Worker(*self._arguments)
        timer = threading.Timer(limit, self._worker.kill)
        timer.start()
        try:
            return self._worker.ask(json.dumps(request))
        except (SystemExit, BrokenPipeError) as error:
            late = timer.finished.is_set()
            self.close()
            return {"failed": f"took more than {limit:.0f} s" if late else str(error)}
        finally:
            timer.cancel()

    def close(self) -> None:
        """Ends the process; the next request starts another."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.close()
            self._worker = None

    def __enter__(self) -> "LastingWorker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def answer(value: Any) -> None:
    """Writes one JSON line to the process that started this worker."""
    print(json.dumps(value), flush=True)


def peak_mb() -> float:
    """Returns the most MB that this process has held since reset_peak."""
    return _status("VmHWM:")


def held_mb() -> float:
    """Returns the MB that this process holds now."""
    return _status("VmRSS:")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def reset_peak() -> None:
    """Sets peak_mb to what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def release() -> None:
    """Returns memory that the C allocator keeps to the system, so that it does not count."""
    from kseg.runtime.memory import return_freed_memory

    gc.collect()
    return_freed_memory()


def tree_memory() -> float:
    """Returns the MB that this process and its descendants hold, shared pages divided among their users (PSS)."""
    total = 0
    for pid in _tree(os.getpid()):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # the process has ended
            continue
        total += int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
    return total / 1024


def tree_cpu() -> float:
    """Returns the processor seconds that this process and its living descendants have used."""
    ticks = 0
    for pid in _tree(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += _tree(child)
    return found
