"""Memory: what a training step holds at most, kseg's on JAX beside segmentation_models_pytorch's on torch."""

import argparse
from typing import Any

from benchmarks.common import ROOT, in_words, machine, write_between, write_numbers
from benchmarks.goals import NETWORKS
from benchmarks.speed import PACKAGES
from benchmarks.steps import Work
from benchmarks.rounds import check_networks, measure, memory, seconds
from kseg.runtime.xla_flags import OWN_ORDER

HELP = (
    "Peak memory of training steps, on a CPU in XLA's own order of a program, too; --peer: beside "
    "segmentation_models_pytorch's. About 8 minutes on two idle cores."
)
PAGE = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance" / "memory.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", action="store_true", help="measure segmentation_models_pytorch too (needs torch)")
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), help="MODEL/BACKBONE ...")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md and the numbers beside it")


def run(arguments: argparse.Namespace) -> None:
    check_networks(arguments.models, peer=arguments.peer)
    settings = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "steps", "peer")}
    result: dict[str, Any] = {"machine": machine(PACKAGES), "settings": settings, "rows": []}
    for network in arguments.models:
        work = Work("step", network, arguments.batch_size, arguments.image_size)
        row: dict[str, Any] = {"network": network, "kseg": _measure(work, "kseg", arguments.steps)}
        if row["kseg"]["platform"] == "cpu":  # the flag is the CPU's
            row["own_order"] = _measure(work, "kseg", arguments.steps, f"--{OWN_ORDER}=true")
        if arguments.peer:
            row["torch"] = _measure(work, "eager", arguments.steps)
        result["rows"].append(row)
        if arguments.write:
            write_numbers(NUMBERS, result)
            write_between(PAGE, "memory", table(result))
    print(table(result))


def _measure(work: Work, side: str, steps: int, xla_flags: str = "") -> dict[str, Any]:
    """One side by itself: the others' processes would take memory, and the machine's time."""
    found = measure(work, [side], turns=1, steps=steps, xla_flags=xla_flags)[side]
    ready = found["ready"]
    measured = {"steps_mb": memory(found), "seconds": seconds(found), "plan_mb": ready.get("plan_mb")}
    return {**measured, "platform": ready["platform"], "device": ready["device"]}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    lines = [
        f"{in_words(here)}, {result['rows'][0]['kseg']['device']}. Batch {settings['batch_size']} at "
        f"{settings['image_size']}x{settings['image_size']}, float32, Adam, one turn of {settings['steps']} steps; load average "
        f"before the run {here['load_before']}. On a CPU: MB that the process held at most during steps after the first, over "
        "what it held when its libraries had computed something small. On a GPU: MB of its memory that arrays took at most.",
        "",
        "| | MB | XLA's plan, MB | s a step | MB, / smp |",
        "|---|---|---|---|---|",
    ]
    names = {"kseg": "kseg on JAX", "own_order": f"kseg on JAX, `XLA_FLAGS=--{OWN_ORDER}=true`", "torch": "smp on torch, eager"}
    for row in result["rows"]:
        theirs = row.get("torch")
        for side, name in names.items():
            if side in row:
                ours = row[side]
                cells = [f"{row['network'].replace('/', ' on ')}, {name}", f"{ours['steps_mb']:.0f}"]
                cells += ["" if ours["plan_mb"] is None else f"{ours['plan_mb']:.0f}", f"{ours['seconds']:.2f}"]
                cells.append(f"{ours['steps_mb'] / theirs['steps_mb']:.2f}" if theirs and side != "torch" else "")
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
