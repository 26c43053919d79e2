"""Runs workers in alternating rounds, and compares their times and memory."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.common import ratios
from benchmarks.process import Worker
from benchmarks.steps import SMP_MODELS, Work
from kseg.runtime.xla_flags import xla_flags_and
from kseg.utils.errors import KsegError, suggest

BASELINES = {"eager": "smp, eager", "compile": "smp, torch.compile", "transformers": "transformers, eager"}
NAMES = {"kseg": "kseg on JAX", **BASELINES}
Measured = dict[str, dict[str, Any]]
"""{worker: {"ready": facts, "rounds": [{"seconds": of a step, "memory_mb": peak so far}]}}"""


def measure(
    work: Work,
    workers: Sequence[str],
    *,
    rounds: int,
    steps: int,
    xla_flags: str = "",
    start_together: bool = False,
    save: Callable[[Measured], None] = lambda measured: None,
) -> Measured:
    """Measures one piece of work by "kseg" and any of BASELINES, each in a process of its own.

    The workers run `steps` steps each, one after the other, `rounds` times, so that other programs slow all of them down.
    start_together: compile at the same time. save is called after each round. Where torch.compile fails, for example for want of
    a C compiler, its entry is {"ready": {"failed": reason}, "rounds": []}. Raises KsegError if another worker fails, or if kseg
    and torch compute on different kinds of device.
    """
    measured: Measured = {}
    with contextlib.ExitStack() as stack:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or stack.enter_context(tempfile.TemporaryDirectory())

        def start(name: str) -> Worker:
            settings = {"worker": name, "work": asdict(work)}
            return stack.enter_context(Worker("speed_worker", settings, environment(name, xla_flags, cache)))

        running: dict[str, Worker] = {}
        for name in workers:
            _status(f"{work.network}: starts {NAMES[name]}")
            running[name] = start(name)
            if not start_together:
                _ = running[name].ready
        for name, worker in list(running.items()):
            if worker.ready.get("compiled"):
                worker.close()
                running[name] = worker = start(name)  # finds its programs in the cache
            measured[name] = {"ready": worker.ready, "rounds": []}
            if "failed" in worker.ready:
                if name != "compile":
                    raise KsegError(worker.ready["failed"])
                del running[name]
        platforms = {name: measured[name]["ready"]["platform"] for name in running}
        if len(set(platforms.values())) > 1:
            raise KsegError(f"{platforms}: devices differ; install JAX and torch for the same device, or hide it from both")
        for number in range(rounds):
            for name, worker in running.items():
                measured[name]["rounds"].append(worker.ask(str(steps)))
            save(measured)
            _status(f"{work.network}: round {number + 1} of {rounds}")
    return measured


def environment(worker: str, xla_flags: str, cache: str) -> dict[str, str | None]:
    """Returns the variables of a worker's process. cache: the folder for compiled programs."""
    if worker != "kseg":
        return {}
    return {
        "KERAS_BACKEND": "jax",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX would take three quarters of the GPU's memory, which torch needs, too
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": xla_flags_and(xla_flags),
    }


def _status(text: str) -> None:
    terminal = sys.stderr.isatty()
    print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


def check_networks(networks: Sequence[str], *, baseline: bool, form: str = "smp") -> None:
    """Raises KsegError for a word that is not MODEL/BACKBONE, an unknown name, or a network that a worker lacks."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from kseg.models.backbones.registry import backbone_options, check_backbone
    from kseg.models.registry import MODELS

    for network in networks:
        model, slash, backbone = network.partition("/")
        if not (model and slash and backbone):
            raise KsegError(f"{network!r}: is not MODEL/BACKBONE, such as deeplabv3plus/resnet50")
        if backbone.startswith("keras_cv/"):
            raise KsegError(f"{network}: keras-cv needs TensorFlow, which benchmarks do without; name another, such as resnet18")
        check_backbone(backbone, MODELS[model].info["output_stride"])
        if form != "smp":
            backbone_options(backbone, form, None)
        if baseline and model not in SMP_MODELS:
            raise KsegError(
                f"{network}: segmentation_models_pytorch has no such model{suggest(model, SMP_MODELS)} Or leave out --baseline"
            )


def seconds(worker: dict[str, Any]) -> float:
    """Returns a worker's median seconds a step."""
    return median(one["seconds"] for one in worker["rounds"])


def memory(worker: dict[str, Any]) -> float | None:
    """Returns a worker's peak MB; None where it is not known."""
    return worker["rounds"][-1]["memory_mb"]


def time_ratios(measured: Measured, baseline: str) -> list[float]:
    """Returns kseg's time over a baseline's, of each round."""
    return ratios(*([one["seconds"] for one in measured[name]["rounds"]] for name in ("kseg", baseline)))


def memory_ratio(measured: Measured, baseline: str) -> float | None:
    """Returns kseg's peak memory over a baseline's; None where either is not known."""
    ours, theirs = memory(measured["kseg"]), memory(measured[baseline])
    return None if ours is None or theirs is None else ours / theirs
