"""Worker processes that load and augment samples: Python's lock limits threads to little more than one core.

A run starts them once; training, validation and scoring share them. They are fresh processes, not forks (JAX and TensorFlow have
started threads by then), and not multiprocessing's (which imports the main script again, and a notebook has none). Samples come
back through shared memory, several at a time; sockets carry only numbers. The arrays of a data set are shared, too.
"""

import contextlib
import mmap
import os
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

from kseg.data.loading.samples import Arrays, Samples, chunk_arrays, chunk_bytes
from kseg.data.loading.shared_arrays import SharedArrays
from kseg.utils.errors import KsegError
from kseg.utils.system import usable_cores

AHEAD = 2
"""Requests per worker at a time: it works on the next one while the parent fetches the last."""


class PoolClosed(KsegError):
    """The WorkerPool was closed before it was asked for samples."""


def worker_pool(workers: int | None) -> "contextlib.AbstractContextManager[WorkerPool | None]":
    """Returns a context manager for --workers, which gives a WorkerPool, or None (threads) with 0.

    workers: None uses every CPU. Windows, where processes do not inherit descriptors, always has threads.
    """
    workers = usable_cores() if workers is None else workers
    if workers == 0 or os.name != "posix":
        return contextlib.nullcontext()
    return WorkerPool(workers)


class WorkerPool:
    """Makes samples (kseg.data.loading.samples) in `workers` processes. As a context manager it ends the processes on exit.

    The processes start at once and are ready about a second later. They also end when this process does, even if it is killed.
    """

    def __init__(self, workers: int):
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._samples: list[Samples] = []
        self._pickled: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._arrays = SharedArrays()
        self.parallel_calls = workers * AHEAD
        """Number of calls of `run` that make progress at the same time."""
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker(self._arrays.descriptor))
        except OSError as error:
            self.close()
            raise KsegError(f"cannot start {workers} worker processes ({error.strerror}); pass a lower --workers.") from error
        for place in range(AHEAD):
            for worker in self._workers:
                self._slots.put(worker.slots[place])

    def add(self, samples: Samples) -> int:
        """Registers `samples` and returns their number for `run`: the same number for equal ones.

        Each worker receives them once. Raises KsegError if they cannot be pickled.
        """
        with self._lock:
            for number, known in enumerate(self._samples):
                if known == samples:
                    return number
            try:
                self._pickled[len(self._samples)] = self._arrays.dumps(samples)
            except KsegError:
                raise
            except Exception as error:
                name = type(samples.dataset).__name__
                raise KsegError(f"{name} cannot be sent to worker processes ({error}); pass --workers=0.") from error
            self._samples.append(samples)
            return len(self._samples) - 1

    def run(self, number: int, arguments: Sequence[tuple[int, ...]]) -> Arrays:
        """Returns the samples for some arguments, stacked; waits for a free worker. Many threads may call it at once.

        number: from `add`. Raises the error that making a sample raised, or KsegError if the worker died.
        """
        slot = self._slots.get()
        try:
            return slot.run(number, self._samples[number], self._pickled[number], arguments)
        except (EOFError, OSError) as error:
            if self._closed:
                raise PoolClosed("the pool of worker processes is closed; open a new one.") from None
            raise KsegError(slot.worker.describe_death()) from error
        finally:
            self._slots.put(slot)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, for benchmarks and tests."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends the processes. A second call does nothing."""
        self._closed = True
        for worker in self._workers:
            worker.process.kill()  # they hold nothing that needs an orderly end, and may be busy with a sample
        for worker in self._workers:
            worker.process.wait()
        self._arrays.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Worker:
    """One process and its slots. `known`: numbers of the samples that it has received. arrays: descriptor of a SharedArrays."""

    def __init__(self, arrays: int) -> None:
        self.lock = threading.Lock()
        self.known: set[int] = set()
        self.slots = [_Slot(self) for _ in range(AHEAD)]
        theirs = [descriptor for slot in self.slots for descriptor in (slot.theirs.fileno(), slot.memory)]
        environment = {
            **os.environ,
            # Workers can import what this process can, for example the class of a data set.
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "NO_ALBUMENTATIONS_UPDATE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kseg.data.loading.worker_process", *map(str, theirs)],
            env=environment,
            pass_fds=[*theirs, arrays],
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C goes to the parent alone
        )
        for slot in self.slots:
            slot.theirs.close()  # so that this end sees when the worker dies

    def describe_death(self) -> str:
        """Returns a message about a worker that has ended."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "a worker process that loads data does not answer; run again, and pass a lower --workers if it happens again."
        if code >= 0:
            return f"a worker process that loads data ended with exit code {code}; see its message above."
        how = f"was killed ({signal.Signals(-code).name})"
        hint = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
        return f"a worker process that loads data {how}{hint}; pass a lower --workers, or 0 for threads of the main process."


class _Slot:
    """Memory shared with a worker, and a socket to it. One caller uses a slot at a time."""

    def __init__(self, worker: _Worker):
        self.worker = worker
        self.ours, self.theirs = _socket_pair()
        self.memory = _shared_memory()
        self._map: mmap.mmap | None = None

    def run(self, number: int, samples: Samples, pickled: bytes, arguments: Sequence[tuple[int, ...]]) -> Arrays:
        if number not in self.worker.known:
            with self.worker.lock:
                if number not in self.worker.known:
                    self._ask(("samples", number, pickled))
                    self.worker.known.add(number)
        size = chunk_bytes(samples.spec, len(arguments))
        if self._map is None or len(self._map) < size:
            os.ftruncate(self.memory, size)
            self._map = mmap.mmap(self.memory, size)
        self._ask(("chunk", number, arguments))
        return tuple(array.copy() for array in chunk_arrays(samples.spec, len(arguments), self._map))

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
    """A descriptor of memory without a name, which the system frees after its last user. Its size is 0."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kseg")
    with tempfile.TemporaryFile() as file:  # not on Linux
        return os.dup(file.fileno())
