"""step and infer: time and memory of a training step and of inference, kseg on JAX beside smp on torch."""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.common import Benchmark, Result, Save, batch, caption, markdown, new_result, spread, title
from benchmarks.rounds import BASELINES, check_networks, measure, memory, memory_ratio, seconds, time_ratios
from benchmarks.steps import NETWORKS, Work
from kseg.utils.errors import KsegError

PACKAGES = ("jax", "jaxlib", "keras", "torch", "segmentation-models-pytorch", "timm")
COLUMNS = (
    "network",
    "baseline",
    "kseg, ms",
    "baseline, ms",
    "time, kseg / baseline (lowest to highest round)",
    "kseg, images/s",
    "kseg, MB",
    "baseline, MB",
    "memory, kseg / baseline",
)
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 peaks of NVIDIA's data sheets; the first name found in the device's. Half of it in float32, as TF32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_speed_arguments(parser, rounds=7, steps=3)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), help="MODEL/BACKBONE ...")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--num_classes", type=int, default=12)
    parser.add_argument("--peak_tflops", type=float, help="of the device in this precision, for its utilisation; known for some")
    parser.add_argument("--start_together", action="store_true", help="let all workers compile at the same time")
    parser.add_argument("--label", default="", help="added to the result's name, beside results of other networks or flags")


def add_speed_arguments(parser: argparse.ArgumentParser, *, rounds: int, steps: int) -> None:
    """Adds the flags that this benchmark and curves share."""
    parser.add_argument(
        "--baseline",
        nargs="*",
        choices=BASELINES,
        help="also measure smp on torch: eager, compile (torch.compile), or both; or transformers, alone",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of each worker; medians are reported")
    parser.add_argument("--steps", type=int, default=steps, help="steps a round")
    parser.add_argument("--xla_flags", default="", help="XLA_FLAGS for kseg's worker, beside those of the environment")


def baselines(arguments: argparse.Namespace) -> list[str]:
    """Returns the baselines that --baseline names."""
    return [] if arguments.baseline is None else arguments.baseline or ["eager", "compile"]


def form(arguments: argparse.Namespace) -> str:
    """Returns the form of the models that are measured: that of the baseline."""
    return "transformers" if "transformers" in baselines(arguments) else "smp"


def measure_speed(kind: str, arguments: argparse.Namespace, save: Save) -> Result:
    """Returns settings, machine, and a row for each network. kind: "step" or "infer"."""
    check(kind, arguments)
    result = new_result(kind, PACKAGES, vars(arguments) | {"baseline": baselines(arguments)}, rows=[])
    for network in arguments.models:
        sizes = (arguments.batch_size, arguments.image_size, arguments.num_classes)
        work = Work(kind, network, *sizes, arguments.precision, form(arguments))
        row = {"work": asdict(work), "workers": {}}
        result["rows"].append(row)

        def save_row(measured, row=row):
            row["workers"] = measured
            result["variant"] = "-".join(filter(None, (variant(measured), arguments.label)))
            save(result)

        measure(
            work,
            ["kseg", *baselines(arguments)],
            rounds=arguments.rounds,
            steps=arguments.steps,
            xla_flags=arguments.xla_flags,
            start_together=arguments.start_together,
            save=save_row,
        )
    return result


def check(kind: str, arguments: argparse.Namespace) -> None:
    """Raises KsegError for what cannot be measured."""
    check_networks(arguments.models, baseline=bool(baselines(arguments)), form=form(arguments))
    if form(arguments) != "smp" and len(baselines(arguments)) > 1:
        raise KsegError("--baseline: transformers has networks of another form than smp; name it alone")
    for name, least in (("batch_size", 1), ("image_size", 32), ("num_classes", 1), ("rounds", 1), ("steps", 1)):
        if getattr(arguments, name) < least:
            raise KsegError(f"--{name}={getattr(arguments, name)}: must be at least {least}")
    for network in arguments.models:
        if kind == "step" and baselines(arguments) and arguments.batch_size == 1 and network.startswith("deeplab"):
            raise KsegError(f"--batch_size=1: torch cannot train {network} on one image (batch norm of one pixel); use 2")


def variant(measured: dict[str, Any]) -> str:
    """Returns "gpu" on an accelerator, "" on a CPU."""
    return "" if measured["kseg"]["ready"]["platform"] == "cpu" else "gpu"


def table(result: Result) -> str:
    """Returns the result in Markdown."""
    settings, ready = result["settings"], result["rows"][0]["workers"]["kseg"]["ready"]
    rounds = f"medians of {settings['rounds']} rounds of {settings['steps']} steps"
    text = f"{batch(settings).capitalize()}, {settings['precision']}; {rounds}"
    rows = []
    for row in result["rows"]:
        names = [name for name in row["workers"] if name != "kseg"]
        rows += [_cells(row, name) for name in names or [None]]
    parts = [caption(result, text, ready["device"]), markdown(COLUMNS, rows), _utilisation(result)]
    return "\n\n".join(filter(None, parts))


def _cells(row: dict[str, Any], baseline: str | None) -> list[str]:
    workers = row["workers"]
    ours = seconds(workers["kseg"])
    first = [title(row["work"]["network"]), BASELINES[baseline] if baseline else "", f"{1e3 * ours:.4g}"]
    speed, mine = f"{row['work']['batch_size'] / ours:.4g}", _megabytes(memory(workers["kseg"]))
    if not baseline:
        return [*first, "", "", speed, mine, "", ""]
    if "failed" in workers[baseline]["ready"]:
        return [*first, f"failed: {workers[baseline]['ready']['failed'].replace('|', '/')}", "", speed, mine, "", ""]
    share = memory_ratio(workers, baseline)
    times = [f"{1e3 * seconds(workers[baseline]):.4g}", spread(time_ratios(workers, baseline))]
    return [*first, *times, speed, mine, _megabytes(memory(workers[baseline])), "" if share is None else f"{share:.2f}"]


def overview(results: Sequence[Result]) -> str:
    """Returns one table of all devices' results, a row for each network."""
    short = {"eager": "eager", "compile": "compiled"}
    columns = ["device", "network", "kseg, ms", *(f"smp {name}, ms" for name in short.values())]
    columns += [f"{what}, kseg / {name}" for what in ("time", "memory") for name in short.values()]
    rows = []
    for result in results:
        own = result["settings"]["xla_flags"] or "transformers" in result["settings"]["baseline"]
        for row in () if own else result["rows"]:
            workers = {name: worker for name, worker in row["workers"].items() if worker["rounds"]}
            times = [f"{1e3 * seconds(workers[name]):.4g}" if name in workers else "" for name in ("kseg", *short)]
            ratios = [f"{median(time_ratios(workers, name)):.2f}" if name in workers else "" for name in short]
            shares = [memory_ratio(workers, name) if name in workers else None for name in short]
            device = "GPU" if result["variant"].startswith("gpu") else "CPU"
            memories = ["" if share is None else f"{share:.2f}" for share in shares]
            rows.append([device, title(row["work"]["network"]), *times, *ratios, *memories])
    return markdown(columns, rows)


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def peak_tflops(device: str, precision: str) -> float | None:
    """Returns a device's dense peak; None for an unknown device."""
    for name, value in PEAK_TFLOPS.items():
        if all(word in device for word in name.split()):
            return value if precision == "bfloat16" else value / 2
    return None


def _utilisation(result: Result) -> str:
    """FLOP utilisation of every worker, in a sentence; nothing where the device's peak is not known."""
    settings = result["settings"]
    device = result["rows"][0]["workers"]["kseg"]["ready"]["device"]
    peak = settings["peak_tflops"] or peak_tflops(device, settings["precision"])
    if not peak:
        return ""
    passes = 3 if result["benchmark"] == "step" else 1  # the backward pass multiplies twice as much as the forward pass
    parts = []
    for row in result["rows"]:
        flops = passes * row["workers"]["kseg"]["ready"]["flops"] * row["work"]["batch_size"]
        shares = [
            f"{BASELINES.get(name, name)} {flops / seconds(worker) / (1e12 * peak):.1%}"
            for name, worker in row["workers"].items()
            if worker["rounds"]
        ]
        parts.append(f"{title(row['work']['network'])}: {', '.join(shares)}")
    counted = "three forward passes' FLOPs" if passes == 3 else "the forward pass's FLOPs"
    return f"Utilisation of {peak:g} TFLOP/s, counting {counted} (`kseg.training.flops.count_flops`). {'; '.join(parts)}."


def _benchmark(kind: str, what: str, minutes: int) -> Benchmark:
    return Benchmark(
        help=f"Time and memory of {what}. With --baseline about {minutes} minutes on two idle cores.",
        add_arguments=add_arguments,
        measure=functools.partial(measure_speed, kind),
        table=table,
        overview=overview,
    )


STEP = _benchmark("step", "a training step", 20)
INFER = _benchmark("infer", "inference", 10)
