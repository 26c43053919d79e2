"""The tables and the plot of experiments/pretrained.md, from the results of experiments.pretrained."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.charts import points_chart
from benchmarks.common import ROOT, markdown, write_between
from kseg.utils.files import atomic_path

PAGE = ROOT / "experiments" / "pretrained.md"
CONCLUSIONS = {
    "no-aug": ("no augmentation", "AUG helps"),
    "half-size": ("half the input's size, 96x128", "Resize 256 hurts"),
    "deeplabv3": ("DeepLabV3", "V3+ over V3"),
    "elastic": ("+ ElasticTransform", "distortion helps"),
    "batch-4": ("batch 4", "a batch of 4 hurts"),
    "batch-16": ("batch 16", "a batch of 16 is best"),
    "lite1": ("EfficientNet-Lite1", "a larger backbone helps"),
}
"""Each change of the base run: what it is, and what the reference experiments concluded."""


def write_page(results: Path, page: Path = PAGE) -> None:
    """Writes all tables that there are results for, and the plot beside the results."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    tables = {"smp": smp_table, "images": images_table, "conclusions": conclusions_table, "recipe": recipe_table}
    for name, table in tables.items():
        chosen = {run: result for run, result in runs.items() if run.startswith(f"{name}-")}
        if chosen:
            write_between(page, name, f"{caption(list(chosen.values()))}\n\n{table(chosen)}{_picture(name, chosen, results)}")


def _picture(name: str, runs: dict[str, dict[str, Any]], results: Path) -> str:
    """Draws the plot of a part that has one, and returns the Markdown that shows it."""
    if name != "images":
        return ""
    with atomic_path(results / "images.png") as temporary:
        temporary.write_bytes(points_chart(image_points(runs), "training images", "mIoU on val"))
    return "\n\n![mIoU by number of training images](results/pretrained/images.png)"


def caption(runs: Sequence[dict[str, Any]]) -> str:
    """Returns when, where and at which commits the runs were made."""
    dates, commits = (sorted({run[name] for run in runs}) for name in ("date", "commit"))
    here = runs[0]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{when}, {here['cpu']}, {here['cores']} cores, {versions}; commit {', '.join(commits)}."


def smp_table(runs: dict[str, dict[str, Any]]) -> str:
    rows = []
    for weights, what in (("imagenet", "ImageNet"), ("none", "none")):
        for library in ("kseg", "smp"):
            found = [run for name, run in runs.items() if name.startswith(f"smp-{library}-{weights}-")]
            if found:
                accuracy = mean(run["pixel_accuracy"] for run in found)
                rows.append([library, what, *_scores(found), f"{accuracy:.4f}", _seconds(found)])
    return markdown(["library", "weights", "mIoU of each seed", "mean", "spread", "pixel accuracy", "seconds"], rows)


def images_table(runs: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, run in sorted(runs.items(), key=lambda item: (int(item[0].split("-")[1]), item[0])):
        _, count, weights = name.split("-")
        what = "ImageNet" if weights == "imagenet" else "none"
        rows.append([count, what, f"{run['mean_iou']:.4f}", f"{run['pixel_accuracy']:.4f}", _seconds([run])])
    return markdown(["training images", "weights", "mIoU", "pixel accuracy", "seconds"], rows)


def image_points(runs: dict[str, dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Returns (training images, mIoU) with ImageNet weights and from scratch."""
    points: dict[str, list[tuple[float, float]]] = {}
    for name, run in runs.items():
        if name.startswith("images-"):
            _, count, weights = name.split("-")
            label = "from ImageNet weights" if weights == "imagenet" else "from scratch"
            points.setdefault(label, []).append((int(count), run["mean_iou"]))
    return {label: sorted(found) for label, found in sorted(points.items())}


def conclusions_table(runs: dict[str, dict[str, Any]]) -> str:
    """A change counts where the difference of the means is larger than the spread of the seeds of both."""
    base = _of(runs, "base")
    rows = [["base", "", *_scores(base), "", ""]] if base else []
    for name, (what, concluded) in CONCLUSIONS.items():
        found = _of(runs, name)
        if not found:
            continue
        difference, spread = mean(_mean_ious(found)) - mean(_mean_ious(base)), max(_spread(found), _spread(base))
        counts = "more than chance" if abs(difference) > spread else "within chance"
        rows.append([what, concluded, *_scores(found), f"{difference:+.4f}", counts])
    return markdown(["change", "the diary's conclusion", "mIoU of each seed", "mean", "spread", "from base", ""], rows)


def recipe_table(runs: dict[str, dict[str, Any]]) -> str:
    rows = [
        [str(run["seed"]), f"{run['mean_iou']:.4f}", f"{run['pixel_accuracy']:.4f}", _seconds([run])] for run in runs.values()
    ]
    return markdown(["seed", "mIoU", "pixel accuracy", "seconds"], rows)


def _of(runs: dict[str, dict[str, Any]], change: str) -> list[dict[str, Any]]:
    return [run for name, run in runs.items() if name.removeprefix("conclusions-").rpartition("-")[0] == change]


def _mean_ious(runs: Sequence[dict[str, Any]]) -> list[float]:
    return [run["mean_iou"] for run in runs]


def _spread(runs: Sequence[dict[str, Any]]) -> float:
    return max(_mean_ious(runs)) - min(_mean_ious(runs))


def _scores(runs: Sequence[dict[str, Any]]) -> list[str]:
    scores = _mean_ious(runs)
    return [
        ", ".join(f"{score:.4f}" for score in scores),
        f"{mean(scores):.4f}",
        f"{_spread(runs):.4f}" if len(scores) > 1 else "",
    ]


def _seconds(runs: Sequence[dict[str, Any]]) -> str:
    """The mean of the runs that had the machine for themselves; "" if none had."""
    alone = [sum(run["epoch_seconds"]) for run in runs if not run.get("beside_other_work")]
    return f"{mean(alone):.0f}" if alone else ""
