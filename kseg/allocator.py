"""The C library's allocator of memory."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Gives the system what the C library keeps of memory that was freed, hundreds of MB after compiling a model's step.

    It takes some hundredths of a second. Only glibc (most Linux systems) can be asked to; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
