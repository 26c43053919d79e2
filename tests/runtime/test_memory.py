"""Freed memory is returned to the system after compilations."""

import ctypes
import sys

import keras
import numpy as np
import psutil
import pytest

from kseg.training.callbacks import ReleaseFreedMemory

BLOCK, BLOCKS = 100_000, 4_000


def held_mb():
    return psutil.Process().memory_info().rss / 2**20


def leave_freed_memory(libc):
    """Frees 200 MB in pieces between others that stay, so that the C library keeps them. Returns those that stay."""
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[::2]:
        libc.free(block)
    return blocks[1::2]


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's")
@pytest.mark.parametrize("when", ["first step", "epoch"])
def test_freed_memory_goes_back(when):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    seen = {}

    class Watch(keras.callbacks.Callback):
        """Leaves freed memory before ReleaseFreedMemory is called, and measures memory before and after it."""

        def __init__(self, point):
            super().__init__()
            self.point = point

        def on_train_batch_end(self, batch, logs=None):
            self.look(batch == 0 and when == "first step")

        def on_epoch_end(self, epoch, logs=None):
            self.look(when == "epoch")

        def look(self, now):
            if now and self.point == "before":
                seen["stay"] = leave_freed_memory(libc)
            if now:
                seen[self.point] = held_mb()

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((8, 4), "float32")
    model.fit(x, x[:, :1], batch_size=4, verbose=0, callbacks=[Watch("before"), ReleaseFreedMemory(), Watch("after")])
    for block in seen["stay"]:
        libc.free(block)
    assert seen["before"] - seen["after"] > 100, seen
