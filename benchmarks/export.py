"""export: size, latency and exactness of a model in each format, beside kseg's own file."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import ROOT, Benchmark, Result, Save, caption, markdown, new_result, ratios
from benchmarks.process import Worker, answer

PACKAGES = ("jax", "keras", "onnxruntime", "tensorflow-cpu")
FORMATS = ("kseg", "stablehlo", "stablehlo bfloat16", "saved_model", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=["deeplabv3plus/resnet18", "unet/mobilenet_v2"], help="MODEL/BACKBONE")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; medians are reported")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=1)


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    result = new_result("export", PACKAGES, vars(arguments), rows=[])
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            result["rows"] += _rows(arguments, model, Path(folder))
            save(result)
    return result


def _rows(arguments: argparse.Namespace, model: str, folder: Path) -> list[dict[str, Any]]:
    """Exports a model of random weights in every format, and lets all of them predict in alternating rounds."""
    settings = {"model": model, "size": arguments.image_size, "batch": arguments.batch_size, "folder": str(folder)}
    environment: dict[str, Any] = {"KERAS_BACKEND": "jax"}
    with Worker("export", {**settings, "format": "make"}, environment) as worker:
        _ = worker.ready
    for format in FORMATS[1:]:
        name, _, dtype = format.partition(" ")
        command = [sys.executable, "-m", "kseg.export", f"--model={folder}/run", f"--format={name}"]
        command += [f"--output={folder}/{format}", f"--dtype={dtype or 'float32'}"]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL)
    with contextlib.ExitStack() as stack:
        workers = {}
        for format in FORMATS:
            workers[format] = stack.enter_context(Worker("export", {**settings, "format": format}, environment))
            _ = workers[format].ready
        times: dict[str, list[float]] = {format: [] for format in FORMATS}
        for _ in range(arguments.rounds):
            for format, worker in workers.items():
                times[format].append(worker.ask("predict"))
    rows = []
    for format, worker in workers.items():
        path = folder / ("run/model.keras" if format == "kseg" else format)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 2**20
        rows.append({"model": model, "format": format, "mb": size, "error": worker.ready, "seconds": times[format]})
    return rows


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings, rows = result["settings"], []
    size = f"{settings['image_size']}x{settings['image_size']}"
    text = f"Random weights, batch {settings['batch_size']} at {size}, medians of {settings['rounds']} rounds"
    reference: dict[str, list[float]] = {row["model"]: row["seconds"] for row in result["rows"] if row["format"] == "kseg"}
    for row in result["rows"]:
        ratio = median(ratios(row["seconds"], reference[row["model"]]))
        cells = [row["model"], row["format"], f"{row['mb']:.1f}", f"{1e3 * median(row['seconds']):.1f}", f"{ratio:.2f}"]
        rows.append([*cells, f"{row['error']:.1e}"])
    columns = ["model", "format", "MB", "ms a batch", "ratio to kseg", "largest difference of a logit, in their std"]
    return f"{caption(result, text)}\n\n{markdown(columns, rows)}"


BENCHMARK = Benchmark(
    help="Size and latency of exported models, and how far their logits are from kseg's.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)


def make(settings: dict[str, Any]) -> None:
    """Writes a run directory with a model of random weights, a batch, and the model's logits for it."""
    import keras

    import kseg
    from kseg.config import TrainConfig
    from kseg.models.saving import save_model
    from kseg.runtime.run_dir import RunDir

    keras.utils.set_random_seed(0)
    name, backbone = settings["model"].split("/", 1)
    size, folder = settings["size"], Path(settings["folder"])
    model = kseg.build_model(name, num_classes=12, backbone=backbone)
    images = np.random.default_rng(0).integers(0, 256, (settings["batch"], size, size, 3), dtype="uint8")
    run = RunDir(folder / "run")
    run.create(TrainConfig(image_size=(size, size)), [])
    save_model(model, run.model)
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", model.predict_on_batch(images))
    answer({})


def load(format: str, folder: Path) -> Callable[[np.ndarray], Any]:
    """Returns the function from images to logits, as docs/guides/export.md loads it."""
    path = folder / format
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
        return lambda images: session.run(["logits"], {"images": images})[0]
    if format == "saved_model":
        import tensorflow as tf

        model = tf.saved_model.load(path).signatures["serving_default"]
        return lambda images: model(images=tf.constant(images))["logits"].numpy()
    if format == "kseg":
        from kseg.models.saving import load_model

        return load_model(folder / "run/model.keras").predict_on_batch
    import jax.export

    call = jax.jit(jax.export.deserialize((path / "model.stablehlo").read_bytes()).call)
    return lambda images: np.asarray(call(images))


def main(settings: dict[str, Any]) -> None:
    """Runs a worker: answers with the largest error of a logit, in standard deviations, then with the seconds of each batch."""
    folder = Path(settings["folder"])
    images, expected = np.load(folder / "images.npy"), np.load(folder / "logits.npy")
    predict = load(settings["format"], folder)
    error = np.abs(predict(images) - expected).max() / expected.std()
    answer(float(error))
    for _ in sys.stdin:
        start = time.perf_counter()
        predict(images)
        answer(time.perf_counter() - start)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    make(arguments) if arguments["format"] == "make" else main(arguments)
