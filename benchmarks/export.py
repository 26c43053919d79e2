"""Export: size, latency and exactness of a model in each format, beside kseg's own."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.common import ROOT, Side, machine, write_between

HELP = "Size and latency of exported models, and how far their logits are from kseg's: all take turns, each in its own process."
PAGE = ROOT / "docs" / "export.md"
PACKAGES = ("jax", "keras", "onnxruntime", "tensorflow-cpu")
FORMATS = ("kseg", "stablehlo", "stablehlo bfloat16", "saved_model", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=["deeplabv3plus/resnet18", "unet/mobilenet_v2"], help="MODEL/BACKBONE")
    parser.add_argument("--rounds", type=int, default=9, help="turns; medians are reported")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into docs/export.md")


def run(arguments: argparse.Namespace) -> None:
    facts = machine(PACKAGES)
    rows = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += _rows(arguments, model, Path(folder))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    head = (
        f"{facts['date']}, {facts['cpu']}, {facts['cores']} cores, {versions}. Random weights, batch {arguments.batch_size} at "
        f"{arguments.image_size}x{arguments.image_size}, medians of {arguments.rounds} turns; load average before the run "
        f"{facts['load_before']}."
    )
    columns = ["model", "format", "MB", "ms a batch", "ratio to kseg", "largest difference of a logit, in their std"]
    text = f"{head}\n\n" + "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *rows])
    if arguments.write:
        write_between(PAGE, "export", text)
    print(text)


def _rows(arguments: argparse.Namespace, model: str, folder: Path) -> list[str]:
    """Exports a model of random weights in every format, lets all predict in turns, and returns the table's lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    settings = {"model": model, "size": arguments.image_size, "batch": arguments.batch_size, "folder": str(folder)}
    command = [sys.executable, str(ROOT / "scripts/benchmarks/export_side.py"), json.dumps({**settings, "format": "make"})]
    subprocess.run(command, env=environment, check=True)
    for format in FORMATS[1:]:
        name, _, dtype = format.partition(" ")
        command = [sys.executable, "-m", "kseg.export", f"--run_dir={folder}/run", f"--format={name}"]
        command += [f"--output={folder}/{format}", f"--dtype={dtype or 'float32'}"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    times: dict[str, list[float]] = {format: [] for format in FORMATS}
    ready: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        sides = {}
        for format in FORMATS:
            side = Side("export_worker", {**settings, "format": format}, {"KERAS_BACKEND": "jax"})
            sides[format], ready[format] = stack.enter_context(side), side.ready
        for _ in range(arguments.rounds):
            for format, side in sides.items():
                times[format].append(side.ask("predict"))
    rows = []
    for format in FORMATS:
        ratio = median(a / b for a, b in zip(times[format], times["kseg"], strict=True))
        path = folder / ("run/model.keras" if format == "kseg" else format)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 2**20
        cells = [model, format, f"{size:.1f}", f"{1000 * median(times[format]):.1f}", f"{ratio:.2f}", f"{ready[format]:.1e}"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows
