"""compile: seconds of building a model, and of tracing, lowering, compiling and first running its training step.

With --cache each model starts twice: with an empty compilation cache, and with the cache that the first start filled.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

from benchmarks.common import Benchmark, Result, Save, batch, caption, markdown, new_result, title
from benchmarks.process import Worker, answer
from benchmarks.speed_worker import KSEG_WITHOUT, device_facts
from kseg.runtime.xla_flags import xla_flags_and
from kseg.utils.errors import KsegError
from kseg.utils.system import without

PACKAGES = ("jax", "jaxlib", "keras")
SMALLEST = {"keras_cv/resnet18": "resnet18", "resnet34": "resnet18", "vgg16": "vgg11", "vgg16_bn": "vgg11_bn"}
"""The smallest backbone of the family of a model's default. A default that is not here is itself taken."""
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
    parser.add_argument(
        "--cache", action="store_true", help="start each model again with the compilation cache of the first start"
    )


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    settings = {name: value for name, value in vars(arguments).items() if name != "models"}
    result = new_result("compile", PACKAGES, settings, rows=[])
    for network in arguments.models or _registered():
        with tempfile.TemporaryDirectory() as cache:
            for start in ("cold", "warm") if arguments.cache else ("",):
                row = {"start": start, **_measure(network, settings, cache if arguments.cache else "none")}
                result["rows"].append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
        gpu = "" if row["platform"] == "cpu" else "gpu"
        result["variant"] = "-".join(filter(None, ("cache" if arguments.cache else "", gpu)))
        save(result)
    return result


def _registered() -> list[str]:
    os.environ["KERAS_BACKEND"] = "jax"
    from kseg.models.registry import list_models

    return list_models()


def _measure(network: str, settings: dict[str, Any], cache: str) -> dict[str, Any]:
    environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("JAX_COMPILATION_CACHE")}
    environment |= {"KERAS_BACKEND": "jax", "XLA_FLAGS": xla_flags_and(settings["xla_flags"])}
    with Worker("compile_times", {**settings, "network": network, "cache": cache}, environment) as worker:
        if "failed" in worker.ready:
            raise KsegError(worker.ready["failed"])
        return worker.ready


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings, rows = result["settings"], []
    cached = "with an empty (cold) and a filled (warm) compilation cache" if settings["cache"] else "nothing cached"
    text = f"{batch(settings).capitalize()}, float32, seconds; each start in a process of its own, {cached}"
    text += f", {settings['xla_flags']}" if settings["xla_flags"] else ""
    for row in result["rows"]:
        stages = [f"{row[stage]:.2f}" for stage in STAGES]
        total = sum(row[stage] for stage in STAGES if stage != "step")
        name = f"{title(row['network'])}{', ' + row['start'] if row['start'] else ''}"
        rows.append([name, f"{row['parameters'] / 1e6:.1f}", *stages, f"{total:.1f}"])
    columns = ["model", "parameters, M", *STAGES.values(), "all before the second step"]
    return f"{caption(result, text, result['rows'][0]['device'])}\n\n{markdown(columns, rows)}"


BENCHMARK = Benchmark(
    help="Seconds to the first training step of every model on a small backbone, by stage. About 8 minutes on two idle cores.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)


def main(settings: dict[str, Any]) -> None:
    """Runs the worker: answers with the seconds of each of STAGES for one model.

    build: layers and initial weights. trace: Python to a jaxpr. lower: jaxpr to StableHLO. compile: XLA. first, step: the first
    and the second training step.
    """
    import jax
    import numpy as np

    from benchmarks.steps import compiled_model
    from kseg.models.registry import MODELS
    from kseg.runtime.compilation_cache import enable_compilation_cache
    from kseg.runtime.memory import jitted_step

    enable_compilation_cache(settings["cache"])
    device = device_facts("kseg")  # starts the device, which is no model's work
    name, _, backbone = settings["network"].partition("/")
    try:
        default = MODELS[name].info["backbone"]
        backbone = backbone or SMALLEST.get(default, default)
        shape = (settings["batch_size"], settings["image_size"], settings["image_size"])
        images, labels = np.zeros((*shape, 3), "uint8"), np.zeros(shape, "uint8")
        times = [time.perf_counter()]
        model = compiled_model(name, backbone, settings["num_classes"])
        jitted, arguments = jitted_step(model, images, labels)
    except KsegError as error:
        answer({"failed": str(error)})
        return
    times.append(time.perf_counter())
    traced = jitted.trace(*arguments)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    state, batch = arguments
    for _ in range(2):
        _, state = compiled(state, batch)
        jax.block_until_ready(state)
        times.append(time.perf_counter())
    seconds = {stage: after - before for stage, (before, after) in zip(STAGES, pairwise(times), strict=True)}
    answer({"network": f"{name}/{backbone}", "parameters": model.count_params(), **device, **seconds})


if __name__ == "__main__":
    with without(*KSEG_WITHOUT):
        main(json.loads(sys.argv[1]))
