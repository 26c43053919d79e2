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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg.config import DeviceConfig
from kseg.errors import KsegError

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
    address = None if config.coordinator == "auto" else config.coordinator
    try:
        jax.distributed.initialize(
            address,
            config.num_processes,
            config.process_id,
            cluster_detection_method=None if address is None else "deactivate",
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (ValueError, RuntimeError) as error:
        what = str(error).strip().splitlines()[0]
        if address is None:
            raise KsegError(
                f"--coordinator=auto: no cluster found here ({what}); "
                "pass --coordinator=HOST:PORT --num_processes=N --process_id=I"
            ) from None
        raise KsegError(
            f"--coordinator={address}: process {config.process_id} of {config.num_processes} found no connection ({what}); start "
            "all processes with the same address, which is process 0's host and a free port of it"
        ) from None


def require_jax(flag: str) -> None:
    """Raises KsegError on another backend than JAX, which alone knows many devices and processes."""
    backend = keras.backend.backend()
    if backend != "jax":
        raise KsegError(f"{flag}: needs KERAS_BACKEND=jax; on {backend} kseg computes on one device")


def rank() -> tuple[int, int]:
    """Returns (this process's number, how many there are)."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, the one that writes and prints."""
    return rank()[0] == 0


def gather(value: Any) -> np.ndarray:
    """Returns the arrays of all processes, which have one shape, stacked in the order of the processes: [processes, ...]."""
    if rank()[1] == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


@contextlib.contextmanager
def together() -> Iterator[None]:
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
        raise KsegError(f"process {failed[0]} of {rank()[1]} could not go on; its own message says why")


def check_same(what: str, text: str) -> None:
    """Raises KsegError unless all processes pass the same text. what: its name in the message."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], "int32")
    other = np.flatnonzero((gather(digest) != digest).any(axis=-1))
    if len(other):
        raise KsegError(
            f"process {rank()[0]} and process {other[0]} were given different {what}; give all processes the same, but for "
            "--process_id"
        )


@contextlib.contextmanager
def shared_file(path: Path) -> Iterator[Path]:
    """Yields, in every process, the path of a file with what process 0 has at `path`: hosts need no common file system."""
    index, count = rank()
    if count == 1:
        yield path
        return
    content = np.frombuffer(path.read_bytes(), "uint8") if index == 0 else np.zeros(0, "uint8")
    length = int(gather(np.int64(len(content)).view("int32"))[0].view("int64")[0])
    content = _from_first(content if index == 0 else np.zeros(length, "uint8"))
    if index == 0:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="kseg-") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(content.tobytes())
        yield copy


def _from_first(value: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))


@contextlib.contextmanager
def as_one() -> Iterator[None]:
    """What several processes do as one: only process 0 prints, and a process that fails, or loses another, ends with one line.

    A process that raised cannot say goodbye to the others in order, so it ends here (exit code 2) instead of waiting for them.
    """
    index, count = rank()
    if count == 1:
        yield
        return
    quiet = contextlib.nullcontext() if index == 0 else contextlib.redirect_stdout(io.StringIO())
    try:
        with quiet:
            yield
    except KsegError as error:
        message = str(error)
    except ValueError as error:  # what JAX makes of a collective that failed
        if not _is_lost_connection(error):
            raise
        message = "lost the connection to another process, which most likely died; see its output, then run again"
    else:
        return
    print(f"error: process {index} of {count}: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(2)  # JAX's orderly end would wait for the process that is gone, then abort with a stack trace


def _is_lost_connection(error: Exception) -> bool:
    text = str(error)
    return any(sign in text for sign in ("Gloo", "NCCL", "UNAVAILABLE", "coordination service"))
