"""Memory that the process holds and does not need."""

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


def forget_programs() -> None:
    """Makes JAX forget every program of this process, 1 to 2 MB each: initial weights and an optimizer's variables took one for
    each shape. What is called again is traced again, and compiled or read from the cache. Other backends have none.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()
