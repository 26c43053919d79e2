"""Sends arrays to worker processes without a copy for each of them.

An array is written once, to a file without a name, which all processes map into memory. A numpy.memmap of a file is not written:
the other processes map its file.
"""

import contextlib
import io
import mmap
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kseg.utils.errors import KsegError

LEAST_BYTES = 4096
"""Smaller arrays are pickled."""
_PART = 1 << 26  # bytes of an array that are made contiguous at a time


class SharedArrays:
    """A file without a name that holds arrays. The processes that inherit its `descriptor` load what `dumps` returns.

    The system frees the file when the last process that has it ends. It is in the folder for temporary files ($TMPDIR).
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        self._size = 0
        self._written: dict[int, tuple[np.ndarray, int]] = {}  # it keeps the arrays, so that ids are not given anew

    def dumps(self, value: Any) -> bytes:
        """Pickles a value; large arrays in it go to the file. Raises whatever pickling raises; KsegError if the disk is full."""
        buffer = io.BytesIO()
        _Pickler(buffer, self).dump(value)
        return buffer.getvalue()

    def place(self, array: np.ndarray) -> int:
        """Returns where the array begins in the file; writes it unless it is there."""
        if id(array) not in self._written:
            offset = self._size
            try:
                self._write(array)
            except OSError as error:
                raise KsegError(
                    f"{tempfile.gettempdir()} cannot hold an array of {array.nbytes} bytes ({error.strerror}); set TMPDIR to "
                    "another folder, or pass --workers=0."
                ) from error
            self._written[id(array)] = array, offset
        return self._written[id(array)][1]

    def _write(self, array: np.ndarray) -> None:
        rows = max(1, _PART // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            part = np.ascontiguousarray(array[start : start + rows]).data.cast("B")
            while part:
                written = os.pwrite(self.descriptor, part, self._size)
                self._size += written
                part = part[written:]
        self._size = -(-self._size // 64) * 64  # the next array begins on a cache line
        os.ftruncate(self.descriptor, self._size)

    def close(self) -> None:
        """Closes the file in this process. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self._written.clear()


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, arrays: SharedArrays):
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self._arrays = arrays

    def reducer_override(self, value: Any) -> Any:
        if type(value) not in (np.ndarray, np.memmap) or value.dtype.hasobject or value.ndim == 0 or value.nbytes < LEAST_BYTES:
            return NotImplemented
        source, offset = _place_in_file(value) or (self._arrays.descriptor, self._arrays.place(value))
        return _open, (source, offset, value.dtype, value.shape)


def _place_in_file(array: np.ndarray) -> tuple[str, int] | None:
    """Returns the file that a memmap, or a part of one, maps, and where it begins there; None for what no file holds."""
    if not isinstance(array, np.memmap) or array.filename is None or array.mode == "c" or not array.flags.c_contiguous:
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap):
        return None
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # where numpy lets the map begin
    offset = start + _address(array) - _address(np.frombuffer(base, "uint8"))
    path = Path(array.filename).absolute()
    try:
        return (str(path), offset) if path.stat().st_size >= offset + array.nbytes else None
    except OSError:
        return None


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


_maps: dict[int | str, mmap.mmap] = {}


def _open(source: int | str, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of a file, mapped into this process's memory. source: the file's descriptor or path."""
    end = offset + int(np.prod(shape)) * dtype.itemsize
    if source not in _maps or len(_maps[source]) < end:
        with contextlib.ExitStack() as stack:
            descriptor = source if isinstance(source, int) else stack.enter_context(Path(source).open("rb")).fileno()
            _maps[source] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    return np.ndarray(shape, dtype, _maps[source], offset)
