"""Several processes that train one model, on one host or many: they connect, exchange data, and fail together.

Each process runs the same program on its own devices; process 0 writes and prints. With a single process these functions do
nothing, on any backend.
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
from kseg.utils.errors import KsegError

CONNECT_SECONDS = 300
"""How long the processes wait for each other at the start."""


def connect(config: DeviceConfig) -> None:
    """Connects this process to the others of its run. Does nothing without --coordinator, or when called again.

    Call it before JAX computes anything. Raises KsegError if the processes do not find each other.
    """
    if config.coordinator is None:
        return
    require_jax(f"--coordinator={config.coordinator}")
    import jax

    if jax.distributed.is_initialized():
        return
    # JAX's preemption service would take over SIGTERM, which kseg.runtime.signals handles.
    jax.config.update("jax_enable_preemption_service", False)
    automatic = config.coordinator == "auto"
    timer = threading.Timer(CONNECT_SECONDS, _give_up, (config,))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            None if automatic else config.coordinator,
            config.num_processes,
            config.process_id,
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=2 * CONNECT_SECONDS,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        if automatic:
            raise KsegError(
                f"--coordinator=auto: no cluster found here ({reason}); "
                "pass --coordinator=HOST:PORT --num_processes=N --process_id=I"
            ) from None
        raise KsegError(
            f"--coordinator={config.coordinator}: process {config.process_id} cannot start there ({reason}); the address is "
            "process 0's host and a free port of it"
        ) from None
    finally:
        timer.cancel()


def _give_up(config: DeviceConfig) -> None:
    """Ends the process with one line. JAX itself would abort with a stack trace."""
    print(
        f"error: --coordinator={config.coordinator}: the processes of the run did not find each other within {CONNECT_SECONDS} "
        "s; start all of them, with the address of process 0's host and a port that the others can reach",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def require_jax(flag: str) -> None:
    """Raises KsegError on backends other than JAX: only JAX supports many devices and processes."""
    backend = keras.backend.backend()
    if backend != "jax":
        raise KsegError(f"{flag}: needs KERAS_BACKEND=jax; on {backend} kseg computes on one device")


def process_index() -> int:
    """Returns the number of this process, counted from 0."""
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
    """Returns True in process 0, which writes and prints."""
    return process_index() == 0


def gather(value: Any) -> np.ndarray:
    """Returns the arrays of all processes stacked as [processes, ...]. All must have the same shape."""
    if process_count() == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """Makes all processes fail if one does: if the block raises KsegError in one process, it raises in all.

    Without it, a mistake that one process finds, such as a missing file on its host, would leave the others waiting.
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
    """Raises KsegError unless all processes pass the same text. what: names the text in the message."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], "int32")
    other = np.flatnonzero((gather(digest) != digest).any(axis=-1))
    if len(other):
        raise KsegError(
            f"process {process_index()} and process {other[0]} were given different {what}; give all processes the same, but for "
            "--process_id"
        )


def broadcast_bytes(content: bytes) -> bytes:
    """Returns the bytes of process 0 in every process. The other processes' bytes are ignored."""
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
    """Yields, in every process, the path of a copy of process 0's .keras file; None if process 0 passes None.

    The hosts need no common file system.
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
    """Connects the processes and runs the block. Only process 0 prints.

    A process that fails, or loses another, exits here with one line and exit code 2: an orderly shutdown needs all processes.
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
        time.sleep(1)  # JAX aborts the others as soon as process 0 is gone: let them print their errors first
    os._exit(code)  # an orderly exit would wait for the lost processes, then abort with a stack trace


def _lost_connection(error: Exception) -> str | None:
    """Returns a message for JAX's error about a failed collective operation; None for any other error."""
    if any(sign in str(error) for sign in ("Gloo", "NCCL", "UNAVAILABLE", "coordination service")):
        return "lost the connection to another process, which most likely died; see its output, then go on with --resume"
    return None


def warn(message: str) -> None:
    """Prints a one-line warning on stderr, in process 0 only."""
    if is_main_process():
        print(f"warning: {message}", file=sys.stderr, flush=True)
