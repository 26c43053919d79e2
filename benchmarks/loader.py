"""Loader: images/s of kseg's pipeline against torch's DataLoader."""

import argparse
import contextlib
import os
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, Side, in_words, machine, write_between, write_numbers
from kseg.utils.system import usable_cores

HELP = "Images/s of the data loader, its scaling, memory over 20 epochs and start-up; --peer: against torch's DataLoader."
PAGE = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance" / "loader.json"
PACKAGES = ("albumentations", "numpy", "opencv-python-headless", "pillow", "tensorflow-cpu", "torch")
SETS = {
    "camvid": "CamVid 480x360 JPEG, input 256x256",
    "synthetic": "synthetic 512x512 JPEG, input 512x512",
}
AUGMENTS = ("none", "aug", "aug_elastic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared = Path(os.environ.get("KSEG_SHARED", ROOT.parent / "shared")) / "data" / "camvid"
    parser.add_argument("--peer", action="store_true", help="measure torch's DataLoader too, in turns with kseg (needs torch)")
    parser.add_argument("--data_dir", default=str(shared), help="CamVid in COCO format")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--augments", nargs="+", choices=AUGMENTS, default=list(AUGMENTS))
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side; medians are reported")
    parser.add_argument("--images", type=int, default=320, help="images a turn")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20, help="passes over CamVid for the figure of memory; 0: none")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md and the numbers beside it")
    parser.add_argument("--note", default="", help="a sentence to stand under the table, e.g. on what else ran")


def run(arguments: argparse.Namespace) -> None:
    result: dict[str, Any] = {"machine": machine(PACKAGES), "settings": vars(arguments) | {"data_dir": "camvid"}, "rows": []}
    for name in arguments.sets:
        for augment in arguments.augments:
            result["rows"] += _compare(arguments, name, augment)
            _publish(result, arguments.write)
    if "camvid" in arguments.sets:
        if arguments.epochs:
            result["memory"] = _memory(arguments)
            _publish(result, arguments.write)
        result["scaling"] = {}
        for augment in arguments.augments:
            result["scaling"][augment] = _scaling(arguments, augment)
            _publish(result, arguments.write)
    print(table(result))


def _publish(result: dict[str, Any], write: bool) -> None:
    """Writes what there is so far: a run that is stopped leaves what it measured."""
    if write:
        write_numbers(NUMBERS, result)
        write_between(PAGE, "loader", table(result))


def _settings(arguments: argparse.Namespace, name: str, augment: str) -> dict[str, Any]:
    if name == "camvid":
        data = {"data_dir": arguments.data_dir, "background": False, "ignore_categories": ["unlabelled"]}
    else:
        from kseg.data.sources.synthetic import synthetic_coco

        data = {"data_dir": str(synthetic_coco(train=96, val=1, size=512))}
    return {
        "data": {"dataset": "coco", **data},
        "image_size": [256, 256] if name == "camvid" else [512, 512],
        "augment": augment,
        "batch_size": arguments.batch_size,
        "workers": arguments.workers,
        "peer_elastic": "albumentations",
    }


def _compare(arguments: argparse.Namespace, name: str, augment: str) -> list[dict[str, Any]]:
    """A row: kseg, in turns with the peer. With ElasticTransform another, in which the peer has kseg's ElasticTransform too."""
    rows = []
    for elastic in ("albumentations", "kseg") if augment == "aug_elastic" and arguments.peer else ("albumentations",):
        settings = {**_settings(arguments, name, augment), "peer_elastic": elastic}
        sides = ("kseg", "torch") if arguments.peer else ("kseg",)
        turns = dict(zip(sides, _in_turns(arguments, [{**settings, "side": side} for side in sides]), strict=True))
        row: dict[str, Any] = {"set": name, "augment": augment, "peer_elastic": elastic}
        for unit in ("images_s", "images_cpu_s"):
            row[unit] = {side: [turn[unit] for turn in made] for side, made in turns.items()}
            medians = {side: round(median(values), 1) for side, values in row[unit].items()}
            print(f"{name} {augment} {unit}: {medians}", flush=True)
        rows.append(row)
    return rows


def _scaling(arguments: argparse.Namespace, augment: str) -> dict[str, list[float]]:
    """images/s with 1 and with 2 workers, in turns."""
    settings = {**_settings(arguments, "camvid", augment), "side": "kseg"}
    turns = _in_turns(arguments, [{**settings, "workers": workers} for workers in (1, 2)])
    rates = [[turn["images_s"] for turn in made] for made in turns]
    print(f"1 and 2 workers, {augment}: {[round(median(values), 1) for values in rates]}", flush=True)
    return {"1": rates[0], "2": rates[1]}


def _in_turns(arguments: argparse.Namespace, settings: list[dict[str, Any]]) -> list[list[dict[str, float]]]:
    """What each side answered in its turns."""
    batches = str(max(1, arguments.images // arguments.batch_size))
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(Side("loader_worker", one)) for one in settings]
        turns = [[side.ask(batches) for side in sides] for _ in range(arguments.rounds)]
    return [list(values) for values in zip(*turns, strict=True)]


def _memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start-up to the first batch, and MB of the process tree after every pass over CamVid."""
    settings = {**_settings(arguments, "camvid", "aug"), "side": "kseg"}
    starts = []
    for _ in range(3):
        with Side("loader_worker", settings) as side:
            starts.append(side.ready["first_batch_s"])
    with Side("loader_worker", settings) as side:
        batches = str(367 // arguments.batch_size)
        memory = [side.ask(batches)["memory_mb"] for _ in range(arguments.epochs)]
    print(f"first batch after {median(starts):.2f} s; MB by epoch {[round(value) for value in memory]}", flush=True)
    return {"first_batch_s": starts, "memory_mb": memory}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    lines = [
        f"{in_words(here)}. Batch "
        f"{settings['batch_size']}, {settings['workers']} workers on either side, medians of {settings['rounds']} turns of "
        f"{settings['images']} images, sides taking turns; load average before the run {here['load_before']}.",
        "",
        "| images | augmentation | kseg images/s | torch DataLoader images/s | ratio | ratio of images a processor second |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        rates = row["images_s"]
        augment = f"`{row['augment']}`"
        if row["peer_elastic"] == "kseg":
            augment += ", the peer given kseg's ElasticTransform"
        cells = [
            SETS[row["set"]],
            augment,
            *(f"{median(rates[side]):.0f}" if side in rates else "" for side in ("kseg", "torch")),
        ]
        cells += [_ratio(row[unit]) for unit in ("images_s", "images_cpu_s")]
        lines.append("| " + " | ".join(cells) + " |")
    if result.get("scaling"):
        lines += ["", "| CamVid, kseg | 1 worker | 2 workers | gain |", "|---|---|---|---|"]
        for augment, rates in result["scaling"].items():
            gains = [b / a for a, b in zip(rates["1"], rates["2"], strict=True)]
            lines.append(f"| `{augment}` | {median(rates['1']):.0f} | {median(rates['2']):.0f} | {median(gains):.2f} |")
    if result.get("memory"):
        memory, starts = result["memory"]["memory_mb"], result["memory"]["first_batch_s"]
        lines += [
            "",
            f"Start-up on CamVid, from after the imports to the first batch: {median(starts):.1f} s (of {len(starts)} starts). "
            f"Memory of the process and its workers (PSS, `aug`): {memory[0]:.0f} MB after the first epoch, "
            f"{memory[-1]:.0f} MB after {len(memory)}.",
        ]
    if settings["note"]:
        lines += ["", settings["note"]]
    return "\n".join(lines)


def _ratio(rates: dict[str, list[float]]) -> str:
    """Median, lowest and highest of the turns' ratios; nothing without a peer."""
    if "torch" not in rates:
        return ""
    ratios = [a / b for a, b in zip(rates["kseg"], rates["torch"], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
