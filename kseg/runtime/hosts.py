"""Several processes that train one model, on one host or many: how they meet, share files, agree and end together.

Each runs the same program on its own devices; process 0 writes and prints. A run of one process is the case where all of this
does nothing, on any backend.
"""

import contextlib
import hashlib
import io
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.config import DeviceConfig
from kseg.runtime import hosts
from kseg.utils.errors import KsegError

CONNECT_SECONDS = 300
"""How long the processes of a run wait for each other at the start."""


def connect(config: DeviceConfig) -> None:
    """Makes this process one of those that config.coordinator names; does nothing without one, or a second time.

    Call it before anything computes. Raises KsegError if the processes do not find each other.
    """
    if config.coordinator is None:
        return
    require_jax(f"--coordinator={config.coordinator}")
    import jax

    if jax.distributed.is_initialized():
        return
    # JAX's would take SIGTERM away from the process; kseg stops a run at a step by itself (kseg.runtime.signals).
    jax.config.update("jax_enable_preemption_service", False)
    found = config.coordinator == "auto"
    timer = threading.Timer(CONNECT_SECONDS, _give_up, (config,))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            None if found else config.coordinator,
            config.num_processes,
            config.process_id,
            cluster_detection_method=None if found else "deactivate",
            initialization_timeout=2 * CONNECT_SECONDS,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (ValueError, RuntimeError) as error:
        what = str(error).strip().splitlines()[0]
        if found:
            raise KsegError(
                f"--coordinator=auto: no cluster found here ({what}); "
                "pass --coordinator=HOST:PORT --num_processes=N --process_id=I"
            ) from None
        raise KsegError(
            f"--coordinator={config.coordinator}: process {config.process_id} cannot start there ({what}); the address is "
            "process 0's host and a free port of it"
        ) from None
    finally:
        timer.cancel()


def _give_up(config: DeviceConfig) -> None:
    """Ends the process: JAX itself would abort with a stack trace."""
    print(
        f"error: --coordinator={config.coordinator}: the processes of the run did not find each other within {CONNECT_SECONDS} "
        "s; start all of them, with the address of process 0's host and a port that the others can reach",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def require_jax(flag: str) -> None:
    """Raises KsegError on another backend than JAX, which alone knows many devices and processes."""
    backend = keras.backend.backend()
    if backend != "jax":
        raise KsegError(f"{flag}: needs KERAS_BACKEND=jax; on {backend} kseg computes on one device")


def process_index() -> int:
    """Returns this process's number, from 0."""
    if keras.backend.backend() != "jax":
        return 0
    import jax

    return jax.process_index()


def process_count() -> int:
    """Returns the number of processes of the run."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def is_main_process() -> bool:
    """Whether this is process 0, the one that writes and prints."""
    return process_index() == 0


def gather(value: Any) -> np.ndarray:
    """Returns the arrays of all processes, which have one shape, stacked in the order of the processes: [processes, ...]."""
    if process_count() == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """A block that ends well in all processes or in none: where one raises KsegError, the others do at its end.

    So a mistake that only one process sees, such as a missing file on its host, does not leave the others waiting.
    """
    failure = None
    try:
        yield
    except KsegError as error:
        failure = error
    failed = np.flatnonzero(gather(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if len(failed):
        raise KsegError(f"process {failed[0]} of {process_count()} could not go on; its own message says why")


def check_same(what: str, text: str) -> None:
    """Raises KsegError unless all processes pass the same text. what: its name in the message."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], "int32")
    other = np.flatnonzero((gather(digest) != digest).any(axis=-1))
    if len(other):
        raise KsegError(
            f"process {process_index()} and process {other[0]} were given different {what}; give all processes the same, but for "
            "--process_id"
        )


def broadcast_bytes(content: bytes) -> bytes:
    """Returns what process 0 passed; what the others pass does not matter."""
    if process_count() == 1:
        return content
    from jax.experimental import multihost_utils

    own = np.frombuffer(content, "uint8")
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(own))))
    if not length:
        return b""
    own = own if is_main_process() else np.zeros(length, "uint8")
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()


@contextlib.contextmanager
def shared_file(path: Path | None) -> Iterator[Path | None]:
    """Yields, in every process, the path of a .keras file with what process 0 has at its `path`, or None if that is None there.

    So the hosts need no common file system.
    """
    if process_count() == 1:
        yield path
        return
    content = broadcast_bytes(path.read_bytes() if is_main_process() and path else b"")
    if is_main_process() or not content:
        yield path if is_main_process() else None
        return
    with tempfile.TemporaryDirectory(prefix="kseg-") as folder:
        copy = Path(folder) / "from_process_0.keras"
        copy.write_bytes(content)
        yield copy


@contextlib.contextmanager
def run_distributed(config: DeviceConfig) -> Iterator[None]:
    """A program that several processes run as one: they connect, only process 0 prints, and a process that fails, or loses
    another, ends with one line and exit code 2.

    A process that raised cannot say goodbye to the others in order, so it ends here instead of waiting for them.
    """
    connect(config)
    if config.coordinator is None:
        yield
        return
    index, count = process_index(), process_count()
    quiet = contextlib.nullcontext() if index == 0 else contextlib.redirect_stdout(io.StringIO())
    code = 2
    try:
        with quiet:
            yield
        return
    except KsegError as error:
        message = str(error)
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except Exception as error:
        message, code = _lost_connection(error) or traceback.format_exc(), 2 if _lost_connection(error) else 1
    sys.stdout.flush()
    print(f"error: process {index} of {count}: {message}", file=sys.stderr, flush=True)
    if index == 0:
        time.sleep(1)  # JAX aborts the others as soon as this one is gone: let them say first why they end
    os._exit(code)  # the orderly end would wait for the processes that are gone, then abort with a stack trace


def _lost_connection(error: Exception) -> str | None:
    """What to say of JAX's error about a collective that failed; None for any other."""
    if any(sign in str(error) for sign in ("Gloo", "NCCL", "UNAVAILABLE", "coordination service")):
        return "lost the connection to another process, which most likely died; see its output, then go on with --resume"
    return None


def warn(message: str) -> None:
    """Prints a warning, one line, on stderr; of several processes the first does."""
    if hosts.is_main_process():
        print(f"warning: {message}", file=sys.stderr, flush=True)
