"""loader: images/s of kseg's pipeline beside torch's DataLoader."""

import argparse
import contextlib
import os
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, Benchmark, Result, Save, caption, markdown, new_result, ratios, spread
from benchmarks.process import Worker
from kseg.utils.system import usable_cores

PACKAGES = ("albumentations", "numpy", "opencv-python-headless", "pillow", "tensorflow-cpu", "torch")
SETS = {
    "camvid": "CamVid 480x360 JPEG, input 256x256",
    "synthetic": "synthetic 512x512 JPEG, input 512x512",
}
UNITS = ("images_s", "images_cpu_s")
AUGMENTS = ("none", "aug", "aug_elastic")
CAMVID = Path(os.environ.get("KSEG_SHARED", ROOT.parent / "shared")) / "data" / "camvid"
"""CamVid in COCO format, 367 training images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", action="store_true", help="also measure torch's DataLoader")
    parser.add_argument("--data_dir", default=str(CAMVID), help="CamVid in COCO format")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--augments", nargs="+", choices=AUGMENTS, default=list(AUGMENTS))
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=7, help="rounds; medians are reported")
    parser.add_argument("--images", type=int, default=320, help="images a round")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20, help="passes over CamVid for the figure of memory; 0: none")


def measure(arguments: argparse.Namespace, save: Save) -> Result:
    result = new_result("loader", PACKAGES, vars(arguments) | {"data_dir": "camvid"}, rows=[])
    for name in arguments.sets:
        for augment in arguments.augments:
            result["rows"] += _compare(arguments, name, augment)
            save(result)
    if "camvid" in arguments.sets:
        if arguments.epochs:
            result["memory"] = _memory(arguments)
            save(result)
        result["scaling"] = {}
        for augment in arguments.augments:
            result["scaling"][augment] = _scaling(arguments, augment)
            save(result)
    return result


def _settings(arguments: argparse.Namespace, name: str, augment: str) -> dict[str, Any]:
    if name == "camvid":
        data = {"data_dir": arguments.data_dir, "background": False, "ignore_categories": ["unlabelled"]}
    else:
        from kseg.data.sources.synthetic.dataset import synthetic_coco

        data = {"data_dir": str(synthetic_coco(train=96, val=1, size=512))}
    return {
        "data": {"dataset": "coco", **data},
        "image_size": [256, 256] if name == "camvid" else [512, 512],
        "augment": augment,
        "batch_size": arguments.batch_size,
        "workers": arguments.workers,
    }


def _compare(arguments: argparse.Namespace, name: str, augment: str) -> list[dict[str, Any]]:
    """Returns a row: kseg, beside the baseline. ElasticTransform gets a second one, in which the baseline uses kseg's."""
    rows = []
    for elastic in ("albumentations", "kseg") if augment == "aug_elastic" and arguments.baseline else ("albumentations",):
        settings = {**_settings(arguments, name, augment), "baseline_elastic": elastic}
        names = ("kseg", "torch") if arguments.baseline else ("kseg",)
        answers = dict(zip(names, _in_rounds(arguments, [{**settings, "worker": one} for one in names]), strict=True))
        row: dict[str, Any] = {"set": name, "augment": augment, "baseline_elastic": elastic}
        for unit in UNITS:
            row[unit] = {worker: [one[unit] for one in found] for worker, found in answers.items()}
            medians = {worker: round(median(values), 1) for worker, values in row[unit].items()}
            print(f"{name} {augment} {unit}: {medians}", flush=True)
        rows.append(row)
    return rows


def _scaling(arguments: argparse.Namespace, augment: str) -> dict[str, list[float]]:
    """Returns images/s with 1 and with 2 worker processes."""
    settings = {**_settings(arguments, "camvid", augment), "worker": "kseg"}
    answers = _in_rounds(arguments, [{**settings, "workers": workers} for workers in (1, 2)])
    rates = [[one["images_s"] for one in found] for found in answers]
    print(f"1 and 2 workers, {augment}: {[round(median(values), 1) for values in rates]}", flush=True)
    return {"1": rates[0], "2": rates[1]}


def _in_rounds(arguments: argparse.Namespace, settings: list[dict[str, Any]]) -> list[list[dict[str, float]]]:
    """Returns each worker's answers, one a round."""
    batches = str(max(1, arguments.images // arguments.batch_size))
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker("loader_worker", one)) for one in settings]
        for worker in workers:
            _ = worker.ready
        answers = [[worker.ask(batches) for worker in workers] for _ in range(arguments.rounds)]
    return [list(values) for values in zip(*answers, strict=True)]


def _memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns start-up to the first batch, and MB of the process tree after every pass over CamVid."""
    settings = {**_settings(arguments, "camvid", "aug"), "worker": "kseg"}
    starts = []
    for _ in range(3):
        with Worker("loader_worker", settings) as worker:
            starts.append(worker.ready["first_batch_s"])
    with Worker("loader_worker", settings) as worker:
        batches = str(367 // arguments.batch_size)
        memory = [worker.ask(batches)["memory_mb"] for _ in range(arguments.epochs)]
    print(f"first batch after {median(starts):.2f} s; MB by epoch {[round(value) for value in memory]}", flush=True)
    return {"first_batch_s": starts, "memory_mb": memory}


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings, rows = result["settings"], []
    text = (
        f"Batch {settings['batch_size']}, {settings['workers']} workers each, medians of {settings['rounds']} rounds of "
        f"{settings['images']} images"
    )
    for row in result["rows"]:
        rates = row["images_s"]
        augment = f"`{row['augment']}`"
        if row["baseline_elastic"] == "kseg":
            augment += ", the baseline with kseg's ElasticTransform"
        cells = [f"{median(rates[name]):.0f}" if name in rates else "" for name in ("kseg", "torch")]
        cells += [spread(ratios(row[unit]["kseg"], row[unit]["torch"])) if "torch" in rates else "" for unit in UNITS]
        rows.append([SETS[row["set"]], augment, *cells])
    columns = ["images", "augmentation", "kseg images/s", "torch DataLoader images/s", "ratio"]
    parts = [caption(result, text), markdown([*columns, "ratio of images a processor second"], rows)]
    if result.get("scaling"):
        rows = []
        for augment, rates in result["scaling"].items():
            gain = median(ratios(rates["2"], rates["1"]))
            rows.append([f"`{augment}`", f"{median(rates['1']):.0f}", f"{median(rates['2']):.0f}", f"{gain:.2f}"])
        parts.append(markdown(["CamVid, kseg", "1 worker", "2 workers", "gain"], rows))
    if result.get("memory"):
        memory, starts = result["memory"]["memory_mb"], result["memory"]["first_batch_s"]
        parts.append(
            f"Start-up on CamVid, from after the imports to the first batch: {median(starts):.1f} s (of {len(starts)} starts). "
            f"Memory of the process and its workers (PSS, `aug`): {memory[0]:.0f} MB after the first epoch, "
            f"{memory[-1]:.0f} MB after {len(memory)}."
        )
    return "\n\n".join(parts)


BENCHMARK = Benchmark(
    help="Images/s of the data loader, its scaling, memory over 20 epochs and start-up.",
    add_arguments=add_arguments,
    measure=measure,
    table=table,
)
