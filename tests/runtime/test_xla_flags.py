"""XLA_FLAGS of kseg's commands. The user's own flags win."""

import importlib.metadata
import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT

from kseg.runtime.xla_flags import MOST_CORES, OWN_ORDER, SEQUENTIAL, order_for_memory

CORES = "kseg.runtime.xla_flags.usable_cores"
PROGRAM = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from kseg.runtime.main import run_main
import kseg.train, kseg.evaluate, kseg.predict  # which must not have JAX start before the flags are set
import keras

def main(argv):
    import jax
    x = jax.ShapeDtypeStruct((20, 500, 500), "float32")
    one = lambda x, y: jax.numpy.tanh(x @ y) @ x @ y[0]
    many = jax.jit(lambda x: sum(one(x[i], x[i - 1]) for i in range(20)))  # products of 1 MB, each needed once
    print(many.lower(x).compile().memory_analysis().temp_size_in_bytes // 10**6)

run_main(main)
"""


def planned_mb(flags):
    """Returns the MB that XLA plans for a command's program with the user's XLA_FLAGS."""
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's compiler")
def test_a_command_needs_less_memory():
    by_default, asked = planned_mb(""), planned_mb(f"--{OWN_ORDER}=true")
    assert by_default < asked / 2, (by_default, asked)


@pytest.mark.parametrize(
    ("given", "then"),
    [
        (None, SEQUENTIAL),
        ("--xla_cpu_enable_fast_math=true", f"--xla_cpu_enable_fast_math=true {SEQUENTIAL}"),
        (f"--{OWN_ORDER}=true", f"--{OWN_ORDER}=true"),
        (SEQUENTIAL, SEQUENTIAL),
    ],
)
def test_what_was_asked_for_stays(given, then, monkeypatch):
    monkeypatch.setattr(CORES, lambda: MOST_CORES)
    if given is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", given)
    order_for_memory()
    assert os.environ["XLA_FLAGS"] == then


@pytest.mark.parametrize("version", ["0.13.0", "1.0", "0.5.3", "unknown", None])
def test_no_flag_for_a_jaxlib_that_may_not_know_it(version, monkeypatch):
    def found(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(CORES, lambda: 1)
    monkeypatch.setattr(importlib.metadata, "version", found)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    order_for_memory()
    assert "XLA_FLAGS" not in os.environ


def test_many_cores_keep_the_order_for_concurrency(monkeypatch):
    monkeypatch.setattr(CORES, lambda: MOST_CORES + 1)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    order_for_memory()
    assert "XLA_FLAGS" not in os.environ
