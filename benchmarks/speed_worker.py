"""A worker of the speed and memory benchmarks: kseg on JAX, smp on torch, eager or by torch.compile, or transformers on torch.

Reads a number of steps from each line, runs so many, and answers with the seconds of one and the peak memory so far.
"""

import json
import os
import sys
import time
from typing import Any

from benchmarks.process import answer, held_mb, peak_mb, release, reset_peak
from benchmarks.steps import Step, Work, kseg_step, torch_step
from kseg.utils.errors import KsegError
from kseg.utils.system import without

KSEG_WITHOUT = ("tensorflow", "keras_cv", "torch")
"""Packages that kseg's worker cannot import: it must do without them."""


def main(settings: dict[str, Any]) -> None:
    """Runs the worker. settings: "worker" ("kseg", or one of BASELINES) and "work", the fields of Work.

    The first answer holds facts of the step, or {"failed": reason}. It has "compiled" where the peak of memory is that of
    compiling and cannot be reset.
    """
    with without(*(KSEG_WITHOUT if settings["worker"] == "kseg" else ())):
        _serve(settings["worker"], Work(**settings["work"]))


def _serve(name: str, work: Work) -> None:
    cache_misses: list[str] = []
    try:
        before = _warm_up(name, work)
        if name == "kseg":
            _count_cache_misses(cache_misses)
        start = time.perf_counter()
        step = kseg_step(work) if name == "kseg" else torch_step(work, compiled=name == "compile")
        step.launch()
        step.wait()
    except KsegError as error:
        answer({"failed": str(error)})
        return
    except Exception as error:
        if name != "compile":
            raise
        answer({"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})  # most often no C compiler
        return
    facts = {**step.facts, **device_facts(name), "first_s": time.perf_counter() - start}
    on_cpu = facts["platform"] == "cpu"
    if not on_cpu and cache_misses:  # XLA tried kernels, which takes memory, and JAX's peak cannot be reset
        facts["compiled"] = True
    _reset_peak(name, on_cpu)
    answer(facts)
    for line in sys.stdin:
        seconds = run_steps(step, int(line))
        answer({"seconds": seconds, "memory_mb": peak_mb() - before if on_cpu else _device_peak_mb(name)})
    os._exit(0)  # the threads of torch and XLA have nothing left to do


def _warm_up(name: str, work: Work) -> float:
    """Imports the libraries and lets them compute something small; returns the MB that the process then holds."""
    if name == "kseg":
        import jax

        import kseg.losses
        import kseg.metrics.confusion_matrix
        import kseg.models
        import kseg.models.functional
        import kseg.runtime.memory
        import kseg.training.flops  # noqa: F401

        jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).block_until_ready()  # starts the device and the compiler
    else:  # torch and timm import more when a step runs
        step = torch_step(Work(work.kind, work.network, min(2, work.batch_size), 64, work.num_classes, work.precision, work.form))
        step.launch()
        step.wait()
        del step
    release()
    return held_mb()


def _count_cache_misses(found: list[str]) -> None:
    """Adds an entry for every program that JAX compiles from now on because its cache lacks it."""
    import jax

    jax.monitoring.register_event_listener(
        lambda event, **_: found.append(event) if event == "/jax/compilation_cache/cache_misses" else None
    )


def run_steps(step: Step, count: int) -> float:
    """Returns the seconds of one of `count` steps, launched without waiting for each other."""
    start = time.perf_counter()
    for _ in range(count):
        step.launch()
    step.wait()
    return (time.perf_counter() - start) / count


def device_facts(name: str) -> dict[str, str]:
    """Returns a worker's platform, "cpu" or "gpu", and the device's name."""
    if name == "kseg":
        import jax

        device = jax.devices()[0]
        return {"platform": "cpu" if device.platform == "cpu" else "gpu", "device": device.device_kind}
    import torch

    on_gpu = torch.cuda.is_available()
    return {"platform": "gpu" if on_gpu else "cpu", "device": torch.cuda.get_device_name() if on_gpu else "cpu"}


def _reset_peak(name: str, on_cpu: bool) -> None:
    """Forgets the peak of compiling and of the first step. JAX cannot do so on a GPU: see "compiled"."""
    if on_cpu:
        release()
        reset_peak()
    elif name != "kseg":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _device_peak_mb(name: str) -> float | None:
    """Returns the most MB of the accelerator's memory that arrays have taken; None where it is not known."""
    if name == "kseg":
        import jax

        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import torch

        peak = torch.cuda.max_memory_allocated()
    return None if peak is None else peak / 2**20


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
