"""Start-up: seconds to the first training step, with an empty compilation cache and with one that an earlier process filled."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

from benchmarks.common import ROOT, machine, write_between
from kseg.runtime.main import run_main

HELP = "Seconds to the first training step of DeepLabV3+, cold and warm: an empty compilation cache and a filled one, in turns."
PAGE = ROOT / "docs" / "performance.md"
PACKAGES = ("jax", "keras")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3, help="turns; medians are reported")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")


def run(arguments: argparse.Namespace) -> None:
    facts = machine(PACKAGES)
    rows = []
    for backbone in arguments.backbones:
        turns = []
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as cache:
                turns.append([_start(arguments, backbone, cache) for _ in range(2)])
        rows.append(_row(backbone, turns))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    head = (
        f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {versions}. Batch {arguments.batch_size} at "
        f"{arguments.image_size}x{arguments.image_size}, medians of {arguments.rounds} turns; load average before the run "
        f"{facts['load_before']}."
    )
    columns = [
        "DeepLabV3+ on",
        "first step, cold",
        "warm",
        "warm / cold",
        "building, cold",
        "warm",
        "both, warm / cold",
        "processor s in all, cold",
        "warm",
    ]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *rows]
    text = f"{head}\n\n" + "\n".join(lines)
    if arguments.write:
        write_between(PAGE, "startup", text)
    print(text)


def _start(arguments: argparse.Namespace, backbone: str, cache: str) -> dict[str, float]:
    settings = {"backbone": backbone, "cache": cache, "size": arguments.image_size, "batch": arguments.batch_size}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    environment["KERAS_BACKEND"] = "jax"
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}  # Keras imports it; nothing here uses it
    command = [sys.executable, "-m", "benchmarks.startup", json.dumps(settings)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def _row(backbone: str, turns: list[Any]) -> str:
    def middle(side: int, what: str) -> float:
        return median(turn[side][what] for turn in turns)

    def ratio(*what: str) -> float:
        return median(sum(map(turn[1].get, what)) / sum(map(turn[0].get, what)) for turn in turns)

    cells = [f"{middle(0, 'first'):.1f} s", f"{middle(1, 'first'):.1f} s", f"{ratio('first'):.2f}"]
    cells += [*(f"{middle(side, 'build'):.1f} s" for side in (0, 1)), f"{ratio('build', 'first'):.2f}"]
    cells += [f"{middle(side, 'processor'):.1f}" for side in (0, 1)]
    return f"| {backbone} | {' | '.join(cells)} |"


def main(settings: dict[str, Any]) -> None:
    """Prints seconds: `build` of building the model, `first` of the first step, `processor` of both on all cores."""
    import keras
    import numpy as np

    import kseg
    from kseg.runtime.compilation_cache import enable_compilation_cache
    from kseg.training.optimizers import build_optimizer

    enable_compilation_cache(settings["cache"])
    keras.utils.set_random_seed(0)
    size, batch = settings["size"], settings["batch"]
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, size, size, 3), dtype="uint8")
    label = generator.integers(0, 12, (batch, size, size), dtype="uint8")
    start, cpu = time.perf_counter(), time.process_time()
    model = kseg.build_model("deeplabv3plus", num_classes=12, backbone=settings["backbone"])
    model.compile(
        build_optimizer(learning_rate=1e-3, weight_decay=1e-2), loss=kseg.CrossEntropy(), metrics=[kseg.ConfusionMatrix(12)]
    )
    built = time.perf_counter()
    model.train_on_batch(images, label)
    done = {"build": built - start, "first": time.perf_counter() - built, "processor": time.process_time() - cpu}
    print(json.dumps(done))


if __name__ == "__main__":
    run_main(lambda argv: main(json.loads(argv[1])))  # as kseg.train is run
