"""Curves: how a training step's time and memory grow with the image's size, the batch and the classes."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, in_words, machine, place, read_numbers, write_between, write_numbers
from benchmarks.speed import PACKAGES, peers
from benchmarks.steps import Work
from benchmarks.rounds import PEER_NAMES, check_networks, measure, memory, seconds
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path

HELP = (
    "Time and memory of a training step against image size, batch and classes, with fitted exponents; --peer: smp's, too. "
    "About 20 minutes on two idle cores with --peer eager."
)
PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
AXES = {"image_size": "side of the image, pixels", "batch_size": "images a batch", "num_classes": "classes"}
NAMES = {"kseg": "kseg on JAX", **PEER_NAMES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", nargs="*", choices=PEER_NAMES, help="measure smp on torch, too: eager, compile, or both")
    parser.add_argument("--model", default="deeplabv3plus/resnet18", help="MODEL/BACKBONE")
    parser.add_argument("--image_sizes", type=int, nargs="*", default=[128, 256, 384, 512, 768, 1024])
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--num_classes", type=int, nargs="*", default=[2, 12, 40, 80, 150])
    parser.add_argument(
        "--at", type=int, nargs=3, default=[256, 2, 12], metavar="N", help="image size, batch and classes otherwise"
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, default=3, help="turns of each side; medians are reported")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn")
    parser.add_argument("--xla_flags", default="", help="XLA_FLAGS for kseg's side, beside those of the environment")
    parser.add_argument("--json", type=Path, help="write the numbers into this file, too")
    parser.add_argument("--from_json", type=Path, help="measure nothing: show, or --write, what --json kept on another machine")
    parser.add_argument(
        "--write", action="store_true", help="put tables and plot into docs/performance.md, the numbers beside it"
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.from_json:
        result = read_numbers(arguments.from_json, "curves")
    else:
        result = _measure(arguments)
    _publish(result, arguments)
    print(text(result))


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    values = {"image_size": arguments.image_sizes, "batch_size": arguments.batch_sizes, "num_classes": arguments.num_classes}
    check_networks([arguments.model], peer=bool(peers(arguments)))
    for name, chosen in values.items():
        if len(set(chosen)) == 1:
            raise KsegError(f"{name}: one value, {chosen[0]}, has no curves; give two, or none to leave it out")
    size, batch, classes = arguments.at
    base = Work("step", arguments.model, batch, size, classes, arguments.precision)
    settings = {"model": arguments.model, "at": arguments.at, "precision": arguments.precision, "turns": arguments.turns}
    settings |= {"steps": arguments.steps, "xla_flags": arguments.xla_flags, "peers": peers(arguments)}
    result: dict[str, Any] = {"kind": "curves", "machine": machine(PACKAGES), "settings": settings, "axes": {}}
    for name, chosen in values.items():
        for value in sorted(set(chosen)):
            sides = measure(
                replace(base, **{name: value}),
                ["kseg", *settings["peers"]],
                turns=arguments.turns,
                steps=arguments.steps,
                xla_flags=arguments.xla_flags,
            )
            result["axes"].setdefault(name, {})[str(value)] = sides
            _publish(result, arguments)
            print(f"{name} {value}: " + ", ".join(f"{k} {seconds(v):.3f} s" for k, v in sides.items() if v["turns"]), flush=True)
    return result


def _publish(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Writes what there is so far: a run that is stopped leaves what it measured."""
    if arguments.json:
        write_numbers(arguments.json, result)
    if arguments.write and result["axes"]:
        from benchmarks.charts import growth_chart

        name = place("curves", next(iter(next(iter(result["axes"].values())).values()))["kseg"]["ready"]["platform"])
        write_numbers(FOLDER / f"{name}.json", result)
        with atomic_path(FOLDER / f"{name}.png") as temporary:
            temporary.write_bytes(growth_chart({AXES[axis]: points(result, axis) for axis in result["axes"]}, NAMES))
        picture = f"![Time and memory of a training step as size, batch and classes grow](performance/{name}.png)"
        write_between(PAGE, name, f"{text(result)}\n\n{picture}")


def points(result: dict[str, Any], name: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{"time" or "memory": {side: [(value, ms or MB)]}} of one thing that grows, what is not known left out."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"time": {}, "memory": {}}
    for value, sides in result["axes"][name].items():
        for side, measured in sides.items():
            if not measured["turns"]:
                continue
            found["time"].setdefault(side, []).append((float(value), 1e3 * seconds(measured)))
            if (held := memory(measured)) is not None:
                found["memory"].setdefault(side, []).append((float(value), held))
    return found


def exponent(line: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns (e, R^2) of log y = e log x + c by least squares: y grows as x^e. line: two points (x, y) or more."""
    import numpy as np

    x, y = np.log(np.array(line)).T
    slope, offset = np.polyfit(x, y, 1)
    rest, all_of_it = ((y - slope * x - offset) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return float(slope), float(1 - rest / all_of_it) if all_of_it > 0 else 1.0


def text(result: dict[str, Any]) -> str:
    """Tables and exponents in Markdown."""
    settings, here = result["settings"], result["machine"]
    size, batch, classes = settings["at"]
    parts = [
        f"{in_words(here)}. {settings['model'].replace('/', ' on ')}, {settings['precision']}; {size}x{size}, batch {batch} and "
        f"{classes} classes but for what grows; medians of {settings['turns']} turns of {settings['steps']} steps; load average "
        f"before the run {here['load_before']}."
    ]
    for name in result["axes"]:
        parts += ["\n".join(_table(result, name)), _exponents(name, points(result, name))]
    return "\n\n".join(parts)


def _table(result: dict[str, Any], name: str) -> list[str]:
    found = points(result, name)
    columns = [(what, side) for side in found["time"] for what in found if side in found[what]]
    units = {"time": "ms", "memory": "MB"}
    lines = [f"| {AXES[name]} | " + " | ".join(f"{NAMES[side]}, {units[what]}" for what, side in columns) + " |"]
    lines += [f"|{'---|' * (1 + len(columns))}"]
    for value in result["axes"][name]:
        cells = [dict(found[what][side]).get(float(value)) for what, side in columns]
        lines.append(f"| {value} | " + " | ".join("" if cell is None else f"{cell:.4g}" for cell in cells) + " |")
    return lines


def _exponents(name: str, found: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """How fast each side's time and memory grow: over the whole range, and between the last two values."""
    parts = []
    for what, sides in found.items():
        for side, line in sides.items():
            if len(line) > 1:
                whole, fit = exponent(line)
                last, _ = exponent(line[-2:])
                reach = f"{line[0][0]:g} to {line[-1][0]:g}"
                parts.append(f"{what} of {NAMES[side]} {whole:.2f} ({reach}, R² {fit:.3f}; {last:.2f} between the last two)")
    return f"Exponents against the {AXES[name].partition(',')[0]}: {'; '.join(parts)}." if parts else ""
