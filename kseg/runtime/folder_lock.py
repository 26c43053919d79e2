"""Locks a folder for one process. The system releases the lock when the process ends, even if it is killed."""

import importlib
import os
from pathlib import Path

from kseg.runtime.hosts import warn


class FolderLock:
    """A lock on a folder, held on its file `.lock`."""

    def __init__(self, folder: Path):
        self._path = folder / ".lock"
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock. Returns False if another process holds it. Does nothing where the system has no file locks."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):  # POSIX's and Windows's ways to refuse
            os.close(descriptor)
            return False
        except OSError:  # a file system without locks
            os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Releases the lock if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        pass
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    try:
        msvcrt = importlib.import_module("msvcrt")  # Windows
    except ImportError:
        warn("this Python cannot lock files: make sure that no two runs write to one --run_dir")
        return
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
