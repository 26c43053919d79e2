"""Sides that take turns at one piece of work, and the ratios of their times and their memory."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.common import Side
from benchmarks.steps import PEERS, Work
from kseg.runtime.xla_flags import xla_flags_and
from kseg.utils.errors import KsegError, suggest

PEER_NAMES = {"eager": "smp, eager", "compile": "smp, torch.compile"}


def measure(work: Work, sides: Sequence[str], *, turns: int, steps: int, xla_flags: str = "") -> dict[str, Any]:
    """Returns {side: {"ready": facts, "turns": [{"seconds" a step, "memory_mb" so far}]}}, each side a process that holds what it
    made until all are done.

    The sides run `steps` steps each, one after the other, `turns` times, so that whatever else the machine does befalls all of
    them. torch.compile's side may fail, for want of a C compiler; it is then {"ready": {"failed": why}, "turns": []}.
    Raises KsegError if another does, or if kseg and torch compute on devices of different kinds.
    """
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or stack.enter_context(tempfile.TemporaryDirectory())
        open_sides = {}
        for name in sides:
            _say(f"{work.network}: {name} is made ready")
            settings = {"side": name, "work": asdict(work)}
            environment = _environment(name, xla_flags, cache)
            side = Side("speed_worker", settings, environment)
            if side.ready.get("searched"):
                side.close()  # the second time its programs are at hand
                side = Side("speed_worker", settings, environment)
            stack.push(side)
            found[name] = {"ready": side.ready, "turns": []}
            if "failed" not in side.ready:
                open_sides[name] = side
            elif name != "compile":
                raise KsegError(side.ready["failed"])
        platforms = {name: found[name]["ready"]["platform"] for name in open_sides}
        if len(set(platforms.values())) > 1:
            raise KsegError(
                f"{platforms}: the sides do not compare; install JAX and torch for the same device, or hide it from both"
            )
        for turn in range(turns):
            for name, side in open_sides.items():
                found[name]["turns"].append(side.ask(str(steps)))
            _say(f"{work.network}: turn {turn + 1} of {turns}")
    return found


def _environment(side: str, xla_flags: str, cache: str) -> dict[str, str]:
    if side != "kseg":
        return {}
    return {
        "KERAS_BACKEND": "jax",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX would take three quarters of the GPU's memory, which torch needs, too
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": xla_flags_and(xla_flags),
    }


def _say(what: str) -> None:
    print(
        f"\r\x1b[K{what}" if sys.stderr.isatty() else what, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True
    )


def check_networks(networks: Sequence[str], *, peer: bool) -> None:
    """Raises KsegError for a word that is not MODEL/BACKBONE, an unknown name, or what one of the sides does not have."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from kseg.models.backbones.registry import check_backbone
    from kseg.models.registry import MODELS

    for network in networks:
        model, slash, backbone = network.partition("/")
        if not (model and slash and backbone):
            raise KsegError(f"{network!r}: is not MODEL/BACKBONE, such as deeplabv3plus/resnet50")
        if backbone.startswith("keras_cv/"):
            raise KsegError(f"{network}: keras-cv needs TensorFlow, which is kept out of here; name another, such as resnet18")
        check_backbone(backbone, MODELS[model].info["output_stride"])
        if peer and model not in PEERS:
            raise KsegError(
                f"{network}: segmentation_models_pytorch has no such model{suggest(model, PEERS)} Or leave out --peer"
            )


def seconds(side: dict[str, Any]) -> float:
    """A side's median seconds a step."""
    return median(turn["seconds"] for turn in side["turns"])


def memory(side: dict[str, Any]) -> float | None:
    """A side's peak MB; None where it is not known."""
    return side["turns"][-1]["memory_mb"]


def time_ratios(sides: dict[str, Any], peer: str) -> list[float]:
    """The turns' own ratios of kseg's time to a peer's."""
    return [a["seconds"] / b["seconds"] for a, b in zip(sides["kseg"]["turns"], sides[peer]["turns"], strict=True)]


def memory_ratio(sides: dict[str, Any], peer: str) -> float | None:
    """kseg's peak memory over a peer's; None where either is not known."""
    ours, theirs = memory(sides["kseg"]), memory(sides[peer])
    return None if ours is None or theirs is None else ours / theirs
