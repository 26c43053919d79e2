"""Compares the back ends: python scripts/compare_backends.py --model=deeplabv3plus --backbone=resnet18 [--help]."""

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import ROOT, Side, machine, write_between, write_numbers

from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.config.fields import check_at_least, field, to_json
from kseg.runtime.main import BACKENDS, run_main
from kseg.utils.errors import KsegError

DESCRIPTION = """
Runs one network on several back ends, each in a process of its own, from the same weights on the same batches, and says how far
logits, gradients and losses are apart, and what a step and a prediction take.

  python scripts/compare_backends.py --model=deeplabv3plus --backbone=resnet18 --image_size=128
  python scripts/compare_backends.py --flagfile=flags/0429_6_deeplabv3plus_resnext50.txt --data_dir=DIR --write

Every flag of kseg.train is known here; those about epochs, schedules and output decide nothing. The optimizer is PyTorch's
Adam with the run's learning rate and weight decay. Dropout is off, because back ends draw different random numbers.
"""
PAGE = ROOT / "docs" / "backends.md"
NUMBERS = ROOT / "docs" / "backends"
PACKAGES = ("keras", "jax", "tensorflow-cpu", "torch")


@dataclass(frozen=True)
class CompareConfig:
    """What to compare, and how often to measure."""

    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    backends: tuple[str, ...] = field(BACKENDS, "Back ends; differences are from the first.", "comparison")
    steps: int = field(20, "Training steps, on as many batches as the epoch has and then again.", "comparison")
    predictions: int = field(10, "Predictions of a batch that are timed.", "comparison")
    write: bool = field(False, "Put table and pictures into docs/backends.md.", "comparison")

    def __post_init__(self):
        check_at_least(self, 2, "steps", "predictions")
        if not self.backends or not set(self.backends) <= set(BACKENDS):
            raise KsegError(f"--backends={','.join(self.backends)}: must be some of {', '.join(BACKENDS)}")


def compare(config: CompareConfig) -> dict[str, Any]:
    """Returns settings, machine, and of each back end its times in seconds, losses, memory and differences from the first."""
    found: dict[str, dict[str, Any]] = {}
    here = machine(PACKAGES)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        batch_shape = write_batches(config, folder)
        sides = {}
        for backend in config.backends:
            environment = {"KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
            sides[backend] = stack.enter_context(Side("backend_worker", {"folder": name}, environment))
            found[backend] = {**sides[backend].ready, "train": [], "predict": []}
        for command, count in (("predict", config.predictions + 1), ("train", config.steps)):
            for turn in range(count):  # in turns, so that whatever else the machine does befalls all of them
                for backend, side in sides.items():
                    found[backend][command].append(side.ask(command))
                    if command == "train" and turn == 0:
                        side.ask("gradients")
                print(f"{command} {turn + 1}/{count}", end="\r", file=sys.stderr, flush=True)
        first = config.backends[0]
        for backend in config.backends[1:]:
            found[backend] |= differences(folder, backend, first)
    settings = {"model": config.train.model, "backbone": config.train.backbone, "batch": list(batch_shape)}
    settings |= {"learning_rate": config.train.optimization.learning_rate, "steps": config.steps}
    return {"machine": here, "settings": settings, "backends": found}


def write_batches(config: CompareConfig, folder: Path) -> tuple[int, ...]:
    """Writes the run's config and its first batches; returns the shape of a batch of images."""
    from kseg.data.check import open_split
    from kseg.data.loading.pipeline import train_batches

    train = config.train
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
    images, labels = zip(*batches.take(config.steps).as_numpy_iterator(), strict=True)
    np.savez(folder / "batches.npz", images=images, labels=labels, num_classes=len(dataset.class_names))
    (folder / "config.json").write_text(to_json(train))
    return images[0].shape


def differences(folder: Path, backend: str, first: str) -> dict[str, float]:
    """Of a back end from the first: of the logits max |a - b| / max |b|, of the gradients, all together, |a - b| / |b| in
    Euclid's norm. (Single gradients that rounding alone makes up, such as those before batch norm, would decide a maximum.)
    """
    logits, gradients = (
        [np.load(folder / f"{what}-{name}.npz") for name in (backend, first)] for what in ("logits", "gradients")
    )
    ours, theirs = (np.concatenate([file[name].ravel() for name in file.files]) for file in gradients)
    a, b = (file["arr_0"] for file in logits)
    return {
        "logits_difference": float(np.abs(a - b).max() / np.abs(b).max()),
        "gradients_difference": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Results in Markdown, a row for each back end of each."""
    lines = [
        "| network, batch | back end | logits | gradients | first loss | loss after all steps | first step, s "
        "| step, s | inference, s | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        settings, sides = result["settings"], result["backends"]
        reference = next(iter(sides.values()))
        for number, side in enumerate(sides.values()):
            losses = [step["loss"] for step in side["train"]]
            apart = [side.get(f"{what}_difference") for what in ("logits", "gradients")]
            apart += [None if not number else abs(losses[i] / reference["train"][i]["loss"] - 1) for i in (0, -1)]
            times = [f"{side['train'][0]['seconds']:.1f}"]
            times += [f"{median(x['seconds'] for x in side[what][1:]):.3f}" for what in ("train", "predict")]
            memory = side["train"][-1]
            held = f"{memory['memory_mb']:.0f}" + ("" if memory["device_mb"] is None else f", device {memory['device_mb']:.0f}")
            name = f"{settings['model']} {settings['backbone'] or ''}, {'x'.join(map(str, settings['batch']))}"
            cells = [name if not number else "", side["devices"], *("" if x is None else f"{x:.1e}" for x in apart)]
            lines.append(f"| {' | '.join([*cells, *times, held])} |")
    return "\n".join(lines)


def publish(result: dict[str, Any]) -> None:
    """Writes numbers and picture below docs/backends, and the table of all numbers there into the page."""
    from kseg.reports.figures import losses_chart
    from kseg.utils.files import atomic_path

    settings = result["settings"]
    name = f"{settings['model']}-{(settings['backbone'] or 'default').replace('/', '-')}"
    write_numbers(NUMBERS / f"network-{name}.json", result)
    curves = {backend: [step["loss"] for step in side["train"]] for backend, side in result["backends"].items()}
    with atomic_path(NUMBERS / f"network-{name}.png") as temporary:
        temporary.write_bytes(losses_chart(curves, 1))
    results = [json.loads(path.read_text()) for path in sorted(NUMBERS.glob("network-*.json"))]
    here = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    load = f"load average before the last run {here['load_before']}"
    text = [f"{here['date']}, {here['cpu']}, {here['cores']} cores, {versions}; {load}.", "", table(results)]
    for path in sorted(NUMBERS.glob("network-*.png")):
        text += ["", f"![Losses of {path.stem.removeprefix('network-')} on each back end](backends/{path.name})"]
    write_between(PAGE, "backends", "\n".join(text))


def read_arguments(words: Sequence[str]) -> CompareConfig:
    """The command line, program first. Raises KsegError for a flag that does not exist."""
    return parse(CompareConfig, words, DESCRIPTION)


def main(argv: Sequence[str]) -> None:
    config = read_arguments(argv)
    result = compare(config)
    print(table([result]))
    if config.write:
        publish(result)


if __name__ == "__main__":
    run_main(main)
