"""The program of a worker process: makes samples for kseg.data.loading.worker_pool and writes them into shared memory.

Started as `python -P -m kseg.data.loading.worker_process SOCKET MEMORY [SOCKET MEMORY ...]`. The arguments are file descriptors,
a pair for each request that may wait. It imports neither TensorFlow, Keras, JAX nor torch. It ends when its sockets close, which
the system does even if the parent is killed.
"""

import mmap
import os
import pickle
import sys
from multiprocessing.connection import Connection, wait
from typing import Any

from kseg.utils.system import without


def main(arguments: list[str]) -> None:
    descriptors = [int(argument) for argument in arguments]
    memories = {Connection(socket): memory for socket, memory in zip(descriptors[::2], descriptors[1::2], strict=True)}
    _import_albumentations_without_torch()
    import cv2

    cv2.setNumThreads(1)  # every core has a worker
    state = _State(memories)
    try:
        while True:
            ready = wait(list(memories))
            for connection in memories:
                if connection in ready:
                    connection.send(state.answer(connection, connection.recv()))
    except (EOFError, OSError):  # the parent closed its end, or died
        os._exit(0)


class _State:
    def __init__(self, memories: dict[Connection, int]):
        self._memories = memories
        self._maps: dict[Connection, mmap.mmap] = {}
        self._samples: dict[int, Any] = {}

    def answer(self, connection: Connection, request: tuple[Any, ...]) -> Exception | None:
        """Handles a request of _Slot.run. Returns the error, if any."""
        try:
            kind, number, argument = request
            if kind == "samples":
                self._samples[number] = _read(argument)
            else:
                self._make(connection, self._samples[number], argument)
        except Exception as error:
            return _portable(error)
        return None

    def _make(self, connection: Connection, samples: Any, arguments: list[tuple[int, ...]]) -> None:
        from kseg.data.loading.samples import chunk_arrays, chunk_bytes, make_chunk

        size = chunk_bytes(samples.spec, len(arguments))
        memory = self._maps.get(connection)
        if memory is None or len(memory) < size:
            memory = self._maps[connection] = mmap.mmap(self._memories[connection], size)
        make_chunk(samples, arguments, chunk_arrays(samples.spec, len(arguments), memory))


def _read(pickled: bytes) -> Any:
    try:
        return pickle.loads(pickled)
    except Exception as error:  # most often because its class is defined in a notebook or in the main script
        from kseg.utils.errors import KsegError

        raise KsegError(
            f"the data set cannot be read by a worker process ({error}); define its class in a module that can be imported, "
            "or pass --workers=0."
        ) from None


def _portable(error: Exception) -> Exception:
    """Returns the error if the parent can unpickle it, else a RuntimeError with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _import_albumentations_without_torch() -> None:
    """Saves a second and 200 MB: albumentations imports an installed torch for a transform that kseg does not use."""
    with without("torch"):
        import kseg.data.augmentation.augmenter  # noqa: F401


if __name__ == "__main__":
    main(sys.argv[1:])
