"""One side of the speed and memory benchmarks: kseg on JAX, or smp on torch, eager or compiled by torch.compile.

Reads numbers, a line each, runs so many steps and answers with their seconds and the memory that they took.
"""

import json
import os
import sys
import time
from typing import Any

from benchmarks.process_memory import held_mb, peak_mb, release, reset_peak
from benchmarks.steps import Step, Work, kseg_step, torch_step
from kseg.utils.errors import KsegError
from kseg.utils.system import without

KSEG_WITHOUT = ("tensorflow", "keras_cv", "torch")
"""What kseg's side is kept from importing."""


def main(settings: dict[str, Any]) -> None:
    """settings: side, which is "kseg", "eager" or "compile", and work with the fields of Work. The first answer is what is known
    of the step, or {"failed": why}; "searched" where its peak of memory is that of compiling.
    """
    with without(*(KSEG_WITHOUT if settings["side"] == "kseg" else ())):
        _serve(settings["side"], Work(**settings["work"]))


def _serve(side: str, work: Work) -> None:
    compiled: list[str] = []
    try:
        before = _import_all(side, work)
        if side == "kseg":
            _listen_for_compilations(compiled)
        start = time.perf_counter()
        step = _make(side, work)
        step.launch()
        step.wait()
    except KsegError as error:
        _answer({"failed": str(error)})
        return
    except Exception as error:
        if side != "compile":
            raise
        _answer({"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})  # no C compiler, most often
        return
    answer = {**step.facts, **device_facts(side), "first_s": time.perf_counter() - start}
    on_cpu = answer["platform"] == "cpu"
    if not on_cpu and compiled:  # XLA tried kernels, which takes memory, and JAX's peak cannot be reset
        answer["searched"] = True
    _forget_peak(side, on_cpu)
    _answer(answer)
    for line in sys.stdin:
        seconds = _run(step, int(line))
        _answer({"seconds": seconds, "memory_mb": peak_mb() - before if on_cpu else _device_peak_mb(side)})
    os._exit(0)  # the threads of torch and XLA have nothing left to do


def _answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def _import_all(side: str, work: Work) -> float:
    """Imports what the side needs and lets it compute something; returns the MB that the process then holds."""
    if side == "kseg":
        import jax

        import kseg.losses
        import kseg.metrics.confusion_matrix
        import kseg.models
        import kseg.models.functional
        import kseg.runtime.memory
        import kseg.training.summary  # noqa: F401

        jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).block_until_ready()  # starts the device and the compiler
    else:  # torch and timm import more as they go
        step = torch_step(Work(work.kind, work.network, min(2, work.batch_size), 64, work.num_classes, work.precision))
        step.launch()
        step.wait()
        del step
    release()
    return held_mb()


def _listen_for_compilations(compiled: list[str]) -> None:
    """Adds a word for every program that JAX compiles from now on because its cache has none."""
    import jax

    jax.monitoring.register_event_listener(
        lambda event, **_: compiled.append(event) if event == "/jax/compilation_cache/cache_misses" else None
    )


def _make(side: str, work: Work) -> Step:
    return kseg_step(work) if side == "kseg" else torch_step(work, compiled=side == "compile")


def _run(step: Step, count: int) -> float:
    """Seconds a step, of `count` steps whose launching need not wait for those before."""
    start = time.perf_counter()
    for _ in range(count):
        step.launch()
    step.wait()
    return (time.perf_counter() - start) / count


def device_facts(side: str) -> dict[str, str]:
    """platform: "cpu" or "gpu", and the device's name."""
    if side == "kseg":
        import jax

        device = jax.devices()[0]
        return {"platform": "cpu" if device.platform == "cpu" else "gpu", "device": device.device_kind}
    import torch

    on_gpu = torch.cuda.is_available()
    return {"platform": "gpu" if on_gpu else "cpu", "device": torch.cuda.get_device_name() if on_gpu else "cpu"}


def _forget_peak(side: str, on_cpu: bool) -> None:
    """What compiling and the first step took is not the step's. (On a GPU JAX's peak cannot be reset: see "searched".)"""
    if on_cpu:
        release()
        reset_peak()
    elif side != "kseg":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _device_peak_mb(side: str) -> float | None:
    """MB of the accelerator's memory that arrays took at most so far; None where it is not known."""
    if side == "kseg":
        import jax

        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import torch

        peak = torch.cuda.max_memory_allocated()
    return None if peak is None else peak / 2**20


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
