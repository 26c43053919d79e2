"""Worker processes that load and augment samples, because Python's lock lets threads use little more than one core.

Started once a run and shared by training, validation and scoring. They are fresh processes, not forks (JAX and TensorFlow have
threads by then) and not multiprocessing's (which imports the main script again, and has none in a notebook). A sample comes back
through shared memory, several at a time; sockets carry only numbers.
"""

import contextlib
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from kseg.data.loading.samples import Arrays, Job, chunk_arrays, chunk_bytes
from kseg.utils.errors import KsegError
from kseg.utils.system import usable_cores

AHEAD = 2
"""Requests a worker has at a time: it goes on with the next while the parent fetches the last."""


class PoolClosed(KsegError):
    """A WorkerPool was asked for samples after its end."""


def worker_pool(workers: int | None) -> "contextlib.AbstractContextManager[WorkerPool | None]":
    """Returns the pool for --workers, to be used in a with statement: None inside it, for threads, with 0.

    Systems without inherited descriptors (Windows) have threads only.
    """
    workers = usable_cores() if workers is None else workers
    if workers == 0 or os.name != "posix":
        return contextlib.nullcontext()
    return WorkerPool(workers)


class WorkerPool:
    """Runs jobs (kseg.data.loading.samples) in `workers` processes. A context manager: its end ends the processes.

    The processes start at once and are ready about a second later. They also end when this process does, however it ends.
    """

    def __init__(self, workers: int):
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._pickled: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.calls = workers * AHEAD
        """Calls of `run` that make progress at the same time."""
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker())
        except OSError as error:
            self.close()
            raise KsegError(f"cannot start {workers} worker processes ({error.strerror}); pass a lower --workers.") from error
        for place in range(AHEAD):
            for worker in self._workers:
                self._slots.put(worker.slots[place])

    def add(self, job: Job) -> int:
        """Returns the number of a job for `run`; the same for an equal one. It is sent to each worker once.

        Raises KsegError if it cannot be sent to another process.
        """
        with self._lock:
            for number, known in enumerate(self._jobs):
                if known == job:
                    return number
            try:
                self._pickled[len(self._jobs)] = pickle.dumps(job, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                name = type(job.dataset).__name__
                raise KsegError(f"{name} cannot be sent to worker processes ({error}); pass --workers=0.") from error
            self._jobs.append(job)
            return len(self._jobs) - 1

    def run(self, number: int, arguments: Sequence[tuple[int, ...]]) -> Arrays:
        """Returns the job's samples for some arguments, stacked; waits for a worker. Called from many threads at once.

        Raises what the job raised, or KsegError if the worker died.
        """
        slot = self._slots.get()
        try:
            return slot.run(number, self._jobs[number], self._pickled[number], arguments)
        except (EOFError, OSError) as error:
            if self._closed:
                raise PoolClosed("the pool of worker processes is closed; open another.") from None
            raise KsegError(slot.worker.describe_death()) from error
        finally:
            self._slots.put(slot)

    @property
    def pids(self) -> list[int]:
        """Process ids, for measurements and tests."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends the processes; a second call does nothing."""
        self._closed = True
        for worker in self._workers:
            worker.process.kill()  # they hold nothing that needs an orderly end, and may be amid a sample
        for worker in self._workers:
            worker.process.wait()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Worker:
    """One process and its slots."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: set[int] = set()
        self.slots = [_Slot(self) for _ in range(AHEAD)]
        theirs = [descriptor for slot in self.slots for descriptor in (slot.theirs.fileno(), slot.memory)]
        environment = {
            **os.environ,
            # What this process can import, a data set's class for one.
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "NO_ALBUMENTATIONS_UPDATE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kseg.data.loading.worker_process", *map(str, theirs)],
            env=environment,
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent alone
        )
        for slot in self.slots:
            slot.theirs.close()  # so that our end sees it when the worker dies

    def describe_death(self) -> str:
        """One line about a worker that is no longer there."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "a worker process that loads data no longer answers; run again, with a lower --workers if it happens again."
        if code >= 0:
            return f"a worker process that loads data ended with exit code {code}; its own message stands above."
        how = f"was killed ({signal.Signals(-code).name})"
        hint = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
        return f"a worker process that loads data {how}{hint}; pass a lower --workers, or 0 for threads of the main process."


class _Slot:
    """A place for some samples: a socket to its worker and memory shared with it. One caller uses it at a time."""

    def __init__(self, worker: _Worker):
        self.worker = worker
        self.ours, self.theirs = _socket_pair()
        self.memory = _shared_memory()
        self._map: mmap.mmap | None = None

    def run(self, number: int, job: Job, pickled: bytes, arguments: Sequence[tuple[int, ...]]) -> Arrays:
        if number not in self.worker.known:
            with self.worker.lock:
                if number not in self.worker.known:
                    self._ask(("job", number, pickled))
                    self.worker.known.add(number)
        size = chunk_bytes(job.spec, len(arguments))
        if self._map is None or len(self._map) < size:
            os.ftruncate(self.memory, size)
            self._map = mmap.mmap(self.memory, size)
        self._ask(("chunk", number, arguments))
        return tuple(array.copy() for array in chunk_arrays(job.spec, len(arguments), self._map))

    def _ask(self, request: tuple[str, int, Any]) -> None:
        self.ours.send(request)
        error = self.ours.recv()
        if error is not None:
            raise error

    def __del__(self) -> None:
        os.close(self.memory)


def _socket_pair() -> tuple[Connection, Connection]:
    from multiprocessing import Pipe

    return Pipe()


def _shared_memory() -> int:
    """A descriptor of memory that has no name, and so is gone with its last user. Empty yet."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kseg")
    with tempfile.TemporaryFile() as file:  # elsewhere than on Linux
        return os.dup(file.fileno())
