"""Memory: peak of a training step, kseg on JAX and segmentation_models_pytorch on torch, each in a process of its own."""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, in_words, machine, write_between
from benchmarks.steps import compiled_model, planned_mb, torch_step

HELP = "Peak memory of training steps; --peer: beside segmentation_models_pytorch's."
PAGE = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance" / "memory.json"
PACKAGES = ("jax", "keras", "torch", "segmentation-models-pytorch")
PAIRS = (
    ("deeplabv3plus", "resnet50"),
    ("deeplabv3plus", "resnext50_32x4d"),
    ("unet", "tf_efficientnet_b0"),
)
CLASSES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", action="store_true", help="measure segmentation_models_pytorch too (needs torch)")
    parser.add_argument("--pairs", nargs="+", default=["/".join(pair) for pair in PAIRS], help="MODEL/BACKBONE ...")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md and the numbers beside it")


def run(arguments: argparse.Namespace) -> None:
    result: dict[str, Any] = {"machine": machine(PACKAGES), "settings": vars(arguments), "rows": []}
    for pair in arguments.pairs:
        row = {"pair": pair}
        for side in ("kseg", "torch") if arguments.peer else ("kseg",):
            row[side] = _measure({**vars(arguments), "pair": pair, "side": side})
        print(row, flush=True)
        result["rows"].append(row)
    text = table(result)
    print(text)
    if arguments.write:
        sys.path.insert(0, str(ROOT))
        from kseg.files import write_text

        write_between(PAGE, "memory", text)
        write_text(NUMBERS, json.dumps(result, indent=1) + "\n")


def _measure(settings: dict[str, Any]) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]), "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(settings)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    lines = [
        f"{in_words(here)}. Batch "
        f"{settings['batch_size']} at {settings['image_size']}x{settings['image_size']}, float32, AdamW. MB that the process "
        "held at most during steps after the first, over what it held with its libraries imported.",
        "",
        "| | kseg on JAX | XLA's plan of the step | smp on torch | kseg / smp |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ours, theirs = row["kseg"], row.get("torch")
        cells = [row["pair"].replace("/", " on "), f"{ours['steps_mb']:.0f}", f"{ours['plan_mb']:.0f}"]
        cells += [f"{theirs['steps_mb']:.0f}", f"{ours['steps_mb'] / theirs['steps_mb']:.2f}"] if theirs else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peak_mb() -> float:
    """MB that this process has held at most since the last reset."""
    return _status("VmHWM:")


def held_mb() -> float:
    """MB that this process holds."""
    return _status("VmRSS:")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def reset_peak() -> None:
    """Starts the peak anew at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def release() -> None:
    """Gives what the allocator keeps for later back to the system, so that it does not count."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def main(settings: dict[str, Any]) -> None:
    """Prints MB that the steps after the first held at most, over what the process held before the model was made."""
    import numpy as np

    name, backbone = settings["pair"].split("/")
    rng = np.random.default_rng(0)
    side, batch = settings["image_size"], settings["batch_size"]
    images = rng.integers(0, 256, (batch, side, side, 3)).astype("uint8")
    labels = rng.integers(0, CLASSES, (batch, side, side)).astype("uint8")
    plan = None
    if settings["side"] == "torch":
        step_once = torch_step(name, backbone, CLASSES, images[:1], labels[:1])  # imports what it needs
        del step_once
        release()
        before = held_mb()
        step_once = torch_step(name, backbone, CLASSES, images, labels)
    else:
        import kseg.losses
        import kseg.metrics
        import kseg.models  # noqa: F401
        from kseg.memory import compiled_step

        before = held_mb()
        compiled, state = compiled_step(compiled_model(name, backbone, CLASSES), images, labels)
        plan = planned_mb(compiled)

        def step_once():
            nonlocal state
            logs, state = compiled(state, (images, labels))
            float(logs["loss"])

    step_once()  # what compiling and the first step take is not the step's
    release()
    reset_peak()
    for _ in range(settings["steps"]):
        step_once()
    print(json.dumps({"steps_mb": peak_mb() - before, "plan_mb": plan}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
