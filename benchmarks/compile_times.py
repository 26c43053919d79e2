"""Compile: seconds of tracing, lowering, compiling and first running a training step of every model."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Side, in_words, machine, network_title, place, read_numbers, write_between, write_numbers
from benchmarks.speed_worker import KSEG_WITHOUT, device_facts
from kseg.runtime.xla_flags import xla_flags_and
from kseg.utils.errors import KsegError
from kseg.utils.system import without

HELP = (
    "Seconds to the first training step of every model on a small backbone, by stage, nothing cached. About 8 minutes on two "
    "idle cores."
)
PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
PACKAGES = ("jax", "jaxlib", "keras")
SMALLEST = {"keras_cv/resnet18": "resnet18", "resnet34": "resnet18", "vgg16": "vgg11", "vgg16_bn": "vgg11_bn"}
"""For a model's default backbone, the smallest of its family. A default that is not here is itself taken."""
STAGES = {
    "build": "building",
    "trace": "tracing",
    "lower": "lowering",
    "compile": "compiling",
    "first": "first step",
    "step": "step",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", help="MODEL or MODEL/BACKBONE ...; default: all")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--num_classes", type=int, default=12)
    parser.add_argument("--xla_flags", default="", help="XLA_FLAGS beside those of the environment")
    parser.add_argument("--json", type=Path, help="write the numbers into this file, too")
    parser.add_argument("--from_json", type=Path, help="measure nothing: show, or --write, what --json kept on another machine")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md and the numbers beside it")


def run(arguments: argparse.Namespace) -> None:
    if arguments.from_json:
        result = read_numbers(arguments.from_json, "compile")
        _publish(result, write=arguments.write, file=None)
        print(table(result))
        return
    settings = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "num_classes", "xla_flags")}
    result = {"kind": "compile", "machine": machine(PACKAGES), "settings": settings, "rows": []}
    for network in arguments.models or registered():
        row = _measure(network, arguments)
        result["rows"].append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        _publish(result, write=arguments.write, file=arguments.json)
    print(table(result))


def _publish(result: dict[str, Any], *, write: bool, file: Path | None) -> None:
    """Writes what there is so far: a run that is stopped leaves what it measured."""
    if file:
        write_numbers(file, result)
    if write:
        name = place("compile", result["rows"][0]["platform"])
        write_numbers(FOLDER / f"{name}.json", result)
        write_between(PAGE, name, table(result))


def registered() -> list[str]:
    """Every registered model."""
    os.environ["KERAS_BACKEND"] = "jax"
    from kseg.models.registry import list_models

    return list_models()


def _measure(network: str, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {**{name: getattr(arguments, name) for name in ("image_size", "batch_size", "num_classes")}, "network": network}
    flags = xla_flags_and(arguments.xla_flags)
    environment = {"KERAS_BACKEND": "jax", "JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_FLAGS": flags}
    with Side("compile_times", settings, environment) as side:
        if "failed" in side.ready:
            raise KsegError(side.ready["failed"])
        return side.ready


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    lines = [
        f"{in_words(here)}{', ' + result['rows'][0]['device']}. Batch {settings['batch_size']} at "
        f"{settings['image_size']}x{settings['image_size']}, {settings['num_classes']} classes, float32, seconds; each model "
        f"once, in a process of its own, nothing cached{', ' + settings['xla_flags'] if settings['xla_flags'] else ''}; load "
        f"average before the run {here['load_before']}.",
        "",
        f"| model | parameters, M | {' | '.join(STAGES.values())} | all before the second step |",
        f"|---|---|{'---|' * len(STAGES)}---|",
    ]
    for row in result["rows"]:
        cells = [
            network_title(row["network"]),
            f"{row['parameters'] / 1e6:.1f}",
            *(f"{row[stage]:.2f}" for stage in STAGES),
        ]
        lines.append(f"| {' | '.join(cells)} | {sum(row[stage] for stage in STAGES if stage != 'step'):.1f} |")
    return "\n".join(lines)


def main(settings: dict[str, Any]) -> None:
    """Prints one row: the seconds of each of STAGES for one model. What each stage is:

    build: layers and initial weights. trace: Python to a jaxpr. lower: jaxpr to StableHLO. compile: XLA. first, step: the first
    and the second training step.
    """
    import jax
    import numpy as np

    from benchmarks.steps import compiled_model
    from kseg.models.registry import MODELS
    from kseg.runtime.memory import jitted_step

    device = device_facts("kseg")  # starts the device, which is no model's work
    name, _, backbone = settings["network"].partition("/")
    try:
        default = MODELS[name].info["backbone"]
        backbone = backbone or SMALLEST.get(default, default)
        shape = (settings["batch_size"], settings["image_size"], settings["image_size"])
        images, labels = np.zeros((*shape, 3), "uint8"), np.zeros(shape, "uint8")
        clock = Clock()
        model = compiled_model(name, backbone, settings["num_classes"])
        jitted, arguments = jitted_step(model, images, labels)
    except KsegError as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        return
    seconds = {"build": clock.lap()}
    traced = jitted.trace(*arguments)
    seconds["trace"] = clock.lap()
    lowered = traced.lower()
    seconds["lower"] = clock.lap()
    compiled = lowered.compile()
    seconds["compile"] = clock.lap()
    state, batch = arguments
    for stage in ("first", "step"):
        _, state = compiled(state, batch)
        jax.block_until_ready(state)
        seconds[stage] = clock.lap()
    facts = {"network": f"{name}/{backbone}", "parameters": model.count_params(), **device}
    print(json.dumps({**facts, **seconds}), flush=True)


class Clock:
    """Seconds since it was made, or since its last lap."""

    def __init__(self):
        self.start = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self.start = now - self.start, now
        return passed


if __name__ == "__main__":
    with without(*KSEG_WITHOUT):
        main(json.loads(sys.argv[1]))
