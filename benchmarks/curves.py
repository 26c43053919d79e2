"""curves: how a training step's time and memory grow with image size, batch size and classes."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common import Benchmark, Result, Save, caption, markdown, new_result, title
from benchmarks.rounds import NAMES, check_networks, measure, memory, seconds
from benchmarks.speed import PACKAGES, add_speed_arguments, baselines, variant
from benchmarks.steps import Work
from kseg.utils.errors import KsegError

AXES = {"image_size": "side of the image, pixels", "batch_size": "images a batch", "num_classes": "classes"}
Points = dict[str, dict[str, list[tuple[float, float]]]]
"""{"time" or "memory": {worker: [(value, ms or MB)]}}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_speed_arguments(parser, rounds=3, steps=2)
    parser.add_argument("--model", default="deeplabv3plus/resnet18", help="MODEL/BACKBONE")
    parser.add_argument("--image_sizes", type=int, nargs="*", default=[128, 256, 384, 512, 768, 1024])
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--num_classes", type=int, nargs="*", default=[2, 12, 40, 80, 150])
    parser.add_argument(
        "--at", type=int, nargs=3, default=[256, 2, 12], metavar="N", help="image size, batch size and classes otherwise"
    )


def measure_curves(arguments: argparse.Namespace, save: Save) -> Result:
    values = {"image_size": arguments.image_sizes, "batch_size": arguments.batch_sizes, "num_classes": arguments.num_classes}
    check_networks([arguments.model], baseline=bool(baselines(arguments)))
    for name, chosen in values.items():
        if len(set(chosen)) == 1:
            raise KsegError(f"{name}: one value, {chosen[0]}, has no growth; give two, or none to leave it out")
    size, batch, classes = arguments.at
    base = Work("step", arguments.model, batch, size, classes, arguments.precision)
    names = ("model", "at", "precision", "rounds", "steps", "xla_flags")
    settings = {name: getattr(arguments, name) for name in names} | {"baseline": baselines(arguments)}
    result = new_result("curves", PACKAGES, settings, axes={})
    for name, chosen in values.items():
        for value in sorted(set(chosen)):
            measured = measure(
                replace(base, **{name: value}),
                ["kseg", *settings["baseline"]],
                rounds=arguments.rounds,
                steps=arguments.steps,
                xla_flags=arguments.xla_flags,
            )
            result["axes"].setdefault(name, {})[str(value)] = measured
            result["variant"] = variant(measured)
            save(result)
            found = ", ".join(f"{worker} {seconds(one):.3f} s" for worker, one in measured.items() if one["rounds"])
            print(f"{name} {value}: {found}", flush=True)
    return result


def points(result: Result, axis: str) -> Points:
    """Returns what was measured along one axis, unknown values left out."""
    found: Points = {"time": {}, "memory": {}}
    for value, measured in result["axes"][axis].items():
        for worker, one in measured.items():
            if not one["rounds"]:
                continue
            found["time"].setdefault(worker, []).append((float(value), 1e3 * seconds(one)))
            if (held := memory(one)) is not None:
                found["memory"].setdefault(worker, []).append((float(value), held))
    return found


def exponent(line: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns (e, R^2) of log y = e log x + c by least squares: y grows as x^e. line: two points (x, y) or more."""
    import numpy as np

    x, y = np.log(np.array(line)).T
    slope, offset = np.polyfit(x, y, 1)
    residual, total = ((y - slope * x - offset) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return float(slope), float(1 - residual / total) if total > 0 else 1.0


def table(result: Result) -> str:
    """Returns tables and exponents in Markdown."""
    settings = result["settings"]
    size, batch, classes = settings["at"]
    text = (
        f"{title(settings['model'])}, {settings['precision']}; {size}x{size}, batch {batch} and {classes} classes, except for "
        f"what grows; medians of {settings['rounds']} rounds of {settings['steps']} steps"
    )
    parts = [caption(result, text)]
    for axis in result["axes"]:
        found = points(result, axis)
        parts += [_table(result, axis, found), _exponents(axis, found)]
    return "\n\n".join(parts)


def _table(result: Result, axis: str, found: Points) -> str:
    columns = [(what, worker) for worker in found["time"] for what in found if worker in found[what]]
    units = {"time": "ms", "memory": "MB"}
    rows = []
    for value in result["axes"][axis]:
        cells = [dict(found[what][worker]).get(float(value)) for what, worker in columns]
        rows.append([value, *("" if cell is None else f"{cell:.4g}" for cell in cells)])
    return markdown([AXES[axis], *(f"{NAMES[worker]}, {units[what]}" for what, worker in columns)], rows)


def _exponents(axis: str, found: Points) -> str:
    """How fast each worker's time and memory grow: over the whole range, and between the last two values."""
    parts = []
    for what, workers in found.items():
        for worker, line in workers.items():
            if len(line) > 1:
                whole, fit = exponent(line)
                last, _ = exponent(line[-2:])
                reach = f"{line[0][0]:g} to {line[-1][0]:g}"
                parts.append(f"{what} of {NAMES[worker]} {whole:.2f} ({reach}, R² {fit:.3f}; {last:.2f} between the last two)")
    return f"Exponents against the {AXES[axis].partition(',')[0]}: {'; '.join(parts)}." if parts else ""


def chart(result: Result) -> bytes | None:
    from benchmarks.charts import growth_chart

    axes: dict[str, Any] = {AXES[axis]: points(result, axis) for axis in result["axes"]}
    return growth_chart(axes, NAMES) if axes else None


BENCHMARK = Benchmark(
    help="Time and memory of a training step against image size, batch size and classes, with fitted exponents. About 20 minutes "
    "on two idle cores with --baseline eager.",
    add_arguments=add_arguments,
    measure=measure_curves,
    table=table,
    chart=chart,
    alt="Time and memory of a training step as size, batch and classes grow",
)
