"""Fit: what Keras's fit and kseg's callbacks cost over a bare jitted loop of the same step, and what the metric costs."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, in_words, machine, write_between, write_numbers
from benchmarks.steps import compiled_model

HELP = "Overhead of fit over a bare jitted loop of the same step on the same data, and the metric's share of an evaluation pass."
PAGE = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance" / "fit.json"
PACKAGES = ("jax", "keras", "numpy", "tensorflow-cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="deeplabv3plus")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_classes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=12, help="steps a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side; medians are reported")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md and the numbers beside it")


def run(arguments: argparse.Namespace) -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    result: dict[str, Any] = {"machine": machine(PACKAGES), "settings": vars(arguments)}
    result["fit"] = _fit(arguments)
    result["metric"] = _metric(arguments)
    text = table(result)
    print(text)
    if arguments.write:
        write_numbers(NUMBERS, result)
        write_between(PAGE, "fit", text)


def _data(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """One uint8 batch: both sides take it through the same tf.data pipeline over and over."""
    import numpy as np

    rng = np.random.default_rng(0)
    side, batch = arguments.image_size, arguments.batch_size
    images = rng.integers(0, 256, (batch, side, side, 3)).astype("uint8")
    labels = rng.integers(0, arguments.num_classes, (batch, side, side)).astype("uint8")
    return images, labels


def _model(arguments: argparse.Namespace, *, metric: bool = True) -> Any:
    return compiled_model(arguments.model, arguments.backbone, arguments.num_classes, metric=metric)


def _fit(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step within fit, with the callbacks of a run that act on every step, and of the bare loop, in turns."""
    import keras

    from kseg.runtime.distribution import hide_accelerators_from_tensorflow
    from kseg.training.callbacks import Progress, TrainState

    hide_accelerators_from_tensorflow()
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors(_data(arguments)).repeat().prefetch(2)
    model = _model(arguments)
    bare = _bare_loop(_model(arguments), batches.as_numpy_iterator())
    seconds: dict[str, list[float]] = {"fit": [], "bare": []}

    class Turns(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds["fit"].append((time.perf_counter() - self.start) / arguments.steps)
            start = time.perf_counter()
            bare(arguments.steps)
            seconds["bare"].append((time.perf_counter() - start) / arguments.steps)

    with tempfile.TemporaryDirectory() as folder:
        position = TrainState(steps=arguments.steps)
        progress = Progress(position, batch_size=arguments.batch_size, epochs=arguments.rounds + 1)
        logger = keras.callbacks.CSVLogger(Path(folder) / "metrics.csv")
        model.fit(
            batches,
            epochs=arguments.rounds + 1,
            steps_per_epoch=arguments.steps,
            callbacks=[position, progress, logger, Turns()],
            shuffle=False,
            verbose=0,
        )
    return {side: values[1:] for side, values in seconds.items()}  # the first turn compiles


def _bare_loop(model: Any, batches: Any) -> Callable[[int], None]:
    """Keras's own train_step, jitted with its state donated, in a loop that does nothing else."""
    import jax

    from kseg.runtime.memory import compiled_step

    step, state = compiled_step(model, *next(batches))

    def loop(steps):
        nonlocal state
        for _ in range(steps):
            logs, state = step(state, next(batches))
        jax.block_until_ready((logs, state))

    return loop


def _metric(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a batch of Keras's jitted evaluation with the confusion matrix and without, in turns."""
    data = _data(arguments)
    models = {"with": _model(arguments), "without": _model(arguments, metric=False)}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(arguments.rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                logs = model.test_on_batch(*data, return_dict=True)
            assert logs["loss"] > 0
            if turn:  # the first compiles
                seconds[name].append((time.perf_counter() - start) / arguments.steps)
    return seconds


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    fit, metric = result["fit"], result["metric"]
    rows = [
        ("training step", "fit, with the callbacks of a run", "bare jitted loop", fit["fit"], fit["bare"]),
        ("evaluation step", "with the confusion matrix", "without", metric["with"], metric["without"]),
    ]
    lines = [
        f"{in_words(here)}. {settings['model']} on "
        f"{settings['backbone']}, {settings['num_classes']} classes, {settings['image_size']}x{settings['image_size']}, batch "
        f"{settings['batch_size']}, float32; medians of {settings['rounds']} turns of {settings['steps']} steps; load average "
        f"before the run {here['load_before']}.",
        "",
        "| | ms | | ms | overhead (median of the turns; lowest to highest) |",
        "|---|---|---|---|---|",
    ]
    for what, one, other, ours, theirs in rows:
        ratios = [a / b - 1 for a, b in zip(ours, theirs, strict=True)]
        lines.append(
            f"| {what}: {one} | {1e3 * median(ours):.1f} | {other} | {1e3 * median(theirs):.1f} | "
            f"{median(ratios):+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%}) |"
        )
    return "\n".join(lines)
