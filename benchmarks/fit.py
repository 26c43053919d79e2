"""fit: what Keras's fit and kseg's callbacks cost over a bare jitted loop of the same step, and what the metric costs."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Benchmark, Result, Save, batch, caption, markdown, new_result, ratios, spread, title
from benchmarks.steps import Work, compiled_model

PACKAGES = ("jax", "keras", "numpy", "tensorflow-cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="deeplabv3plus/resnet18", help="MODEL/BACKBONE")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_classes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=12, help="steps a round")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; medians are reported")


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    os.environ["KERAS_BACKEND"] = "jax"
    result = new_result("fit", PACKAGES, vars(arguments))
    return result | {"fit": _fit(arguments), "metric": _metric(arguments)}


def _data(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """One uint8 batch, which the pipeline repeats."""
    return Work("step", arguments.model, arguments.batch_size, arguments.image_size, arguments.num_classes).batch()


def _model(arguments: argparse.Namespace, *, metric: bool = True) -> Any:
    name, backbone = arguments.model.split("/", 1)
    return compiled_model(name, backbone, arguments.num_classes, metric=metric)


def _fit(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step in fit, with the callbacks of a run that act on every step, and in the bare loop, in alternating rounds."""
    import keras

    from kseg.runtime.tensorflow_import import hide_accelerators_from_tensorflow
    from kseg.training.progress import Progress, TrainState

    hide_accelerators_from_tensorflow()
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors(_data(arguments)).repeat().prefetch(2)
    model = _model(arguments)
    bare = _bare_loop(_model(arguments), batches.as_numpy_iterator())
    seconds: dict[str, list[float]] = {"fit": [], "bare": []}

    class Rounds(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds["fit"].append((time.perf_counter() - self.start) / arguments.steps)
            start = time.perf_counter()
            bare(arguments.steps)
            seconds["bare"].append((time.perf_counter() - start) / arguments.steps)

    with tempfile.TemporaryDirectory() as folder:
        state = TrainState(steps=arguments.steps)
        progress = Progress(state, batch_size=arguments.batch_size, epochs=arguments.rounds + 1)
        logger = keras.callbacks.CSVLogger(Path(folder) / "metrics.csv")
        model.fit(
            batches,
            epochs=arguments.rounds + 1,
            steps_per_epoch=arguments.steps,
            callbacks=[state, progress, logger, Rounds()],
            shuffle=False,
            verbose=0,
        )
    return {name: values[1:] for name, values in seconds.items()}  # the first round compiles


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
    """Seconds a batch of Keras's jitted evaluation with the confusion matrix and without, in alternating rounds."""
    data = _data(arguments)
    models = {"with": _model(arguments), "without": _model(arguments, metric=False)}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(arguments.rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                logs = model.test_on_batch(*data, return_dict=True)
            assert logs["loss"] > 0
            if number:  # the first round compiles
                seconds[name].append((time.perf_counter() - start) / arguments.steps)
    return seconds


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings, fit, metric = result["settings"], result["fit"], result["metric"]
    rounds = f"medians of {settings['rounds']} rounds of {settings['steps']} steps"
    text = f"{title(settings['model'])}, {batch(settings)}, float32; {rounds}"
    rows = []
    for what, one, other, ours, theirs in (
        ("training step", "fit, with the callbacks of a run", "bare jitted loop", fit["fit"], fit["bare"]),
        ("evaluation step", "with the confusion matrix", "without", metric["with"], metric["without"]),
    ):
        overhead = spread([ratio - 1 for ratio in ratios(ours, theirs)], "+.1%")
        rows.append([f"{what}: {one}", f"{1e3 * median(ours):.1f}", other, f"{1e3 * median(theirs):.1f}", overhead])
    return f"{caption(result, text)}\n\n{markdown(['', 'ms', '', 'ms', 'overhead (lowest to highest round)'], rows)}"


BENCHMARK = Benchmark(
    help="Overhead of fit over a bare jitted loop of the same step on the same data, and of the metric in an evaluation step.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)
