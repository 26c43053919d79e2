"""backends: one network on several Keras backends, from the same weights on the same batches."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.common import Benchmark, Result, Save, caption, markdown, new_result
from benchmarks.process import Worker
from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.config.fields import to_json
from kseg.runtime.main import BACKENDS
from kseg.utils.errors import KsegError

HELP = """Differences of logits, gradients and losses between backends, and the time of a step and a prediction.
Every flag of kseg.train is known, such as --model and --backbone; those about epochs, schedules and output change nothing. The
optimizer is PyTorch's Adam with the run's learning rate and weight decay. Dropout is off: backends draw different numbers."""
PACKAGES = ("keras", "jax", "tensorflow-cpu", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="differences are from the first")
    parser.add_argument("--steps", type=int, default=20, help="training steps, on the batches of one epoch over and over")
    parser.add_argument("--predictions", type=int, default=10, help="timed predictions of a batch")


def train_config(words: Sequence[str]) -> TrainConfig:
    """Returns the config of the flags that are kseg.train's. Raises KsegError for an unknown flag."""
    return parse(TrainConfig, ["python -m benchmarks backends", *words], HELP)


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    """Returns of each backend its times in seconds, losses, memory, and differences from the first backend."""
    train = arguments.train
    for name in ("steps", "predictions"):
        if getattr(arguments, name) < 2:
            raise KsegError(f"--{name}={getattr(arguments, name)}: must be at least 2")
    settings = {"model": train.model, "backbone": train.backbone, "learning_rate": train.optimization.learning_rate}
    result = new_result("backends", PACKAGES, settings | {"steps": arguments.steps}, backends={})
    result["variant"] = f"{train.model}-{train.backbone or 'default'}".replace("/", "-")
    found = result["backends"]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        settings["batch"] = result["settings"]["batch"] = list(write_batches(train, arguments.steps, folder))
        workers = {}
        for backend in arguments.backends:
            environment = {"KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
            workers[backend] = stack.enter_context(Worker("backend_worker", {"folder": name}, environment))
            found[backend] = {**workers[backend].ready, "train": [], "predict": []}
        for command, count in (("predict", arguments.predictions + 1), ("train", arguments.steps)):
            for number in range(count):
                for backend, worker in workers.items():
                    found[backend][command].append(worker.ask(command))
                    if command == "train" and number == 0:
                        worker.ask("gradients")
                print(f"{command} {number + 1}/{count}", end="\r", file=sys.stderr, flush=True)
        for backend in arguments.backends[1:]:
            found[backend] |= differences(folder, backend, arguments.backends[0])
    return result


def write_batches(train: TrainConfig, count: int, folder: Path) -> tuple[int, ...]:
    """Writes the run's config and its first batches; returns the shape of a batch of images."""
    import numpy as np

    from kseg.data.check import open_split
    from kseg.data.loading.pipeline import train_batches

    dataset, _ = open_split(train.data, train.train_split)
    batches, _ = train_batches(
        dataset,
        augment=train.augment,
        seed=train.seed,
        first_epoch=0,
        epochs=1,
        image_size=train.image_size,
        batch_size=train.batch_size,
    )
    images, labels = zip(*batches.take(count).as_numpy_iterator(), strict=True)
    np.savez(folder / "batches.npz", images=images, labels=labels, num_classes=len(dataset.class_names))
    (folder / "config.json").write_text(to_json(train))
    return images[0].shape


def differences(folder: Path, backend: str, first: str) -> dict[str, float]:
    """Returns a backend's differences from the first: max |a - b| / max |b| of the logits, and |a - b| / |b| of all gradients in
    the Euclidean norm. (A maximum would be that of gradients that are rounding alone, such as those before batch norm.)
    """
    import numpy as np

    logits, gradients = (
        [np.load(folder / f"{what}-{name}.npz") for name in (backend, first)] for what in ("logits", "gradients")
    )
    ours, theirs = (np.concatenate([file[name].ravel() for name in file.files]) for file in gradients)
    a, b = (file["arr_0"] for file in logits)
    return {
        "logits_difference": float(np.abs(a - b).max() / np.abs(b).max()),
        "gradients_difference": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
    }


def table(result: Result) -> str:
    """Returns the result in Markdown, a row for each backend."""
    settings, backends, rows = result["settings"], result["backends"], []
    reference = [step["loss"] for step in next(iter(backends.values()))["train"]]
    for number, one in enumerate(backends.values()):
        losses = [step["loss"] for step in one["train"]]
        apart = [one.get(f"{what}_difference") for what in ("logits", "gradients")]
        apart += [abs(losses[i] / reference[i] - 1) if number else None for i in (0, -1)]
        times = [f"{one['train'][0]['seconds']:.1f}"]
        times += [f"{median(x['seconds'] for x in one[what][1:]):.3f}" for what in ("train", "predict")]
        memory = f"{one['train'][-1]['memory_mb']:.0f}"
        rows.append([one["devices"], *("" if x is None else f"{x:.1e}" for x in apart), *times, memory])
    batch = "x".join(map(str, settings["batch"]))
    text = f"{settings['model']} on {settings['backbone'] or 'its default backbone'}, batch {batch}; {settings['steps']} steps"
    columns = ["backend", "logits", "gradients", "first loss", "last loss", "first step, s", "step, s", "inference, s"]
    return f"{caption(result, text)}\n\n{markdown([*columns, 'peak memory, MB'], rows)}"


def chart(result: Result) -> bytes:
    from benchmarks.charts import losses_chart

    return losses_chart({name: [step["loss"] for step in one["train"]] for name, one in result["backends"].items()}, 1)


BENCHMARK = Benchmark(
    help=HELP.partition("\n")[0],
    add_arguments=add_arguments,
    measure=measure,
    table=table,
    chart=chart,
    alt="Losses on each backend",
)
