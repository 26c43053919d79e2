"""Step and infer: time and memory of a training step and of inference, kseg's on JAX beside smp's on torch, in turns."""

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, in_words, machine, network_title, place, read_numbers, write_between, write_numbers
from benchmarks.goals import NETWORKS, peak_tflops, verdicts
from benchmarks.steps import Work
from benchmarks.rounds import PEER_NAMES, check_networks, measure, memory, memory_ratio, seconds, time_ratios
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path

PAGE = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance"
PACKAGES = ("jax", "jaxlib", "keras", "torch", "segmentation-models-pytorch", "timm")
COLUMNS = (
    "network",
    "peer",
    "kseg, ms",
    "peer, ms",
    "time, kseg / peer (lowest to highest turn)",
    "kseg, images/s",
    "kseg, MB",
    "peer, MB",
    "memory, kseg / peer",
    "goals",
)


class Speed:
    """One of the two commands. kind: "step" or "infer"."""

    def __init__(self, kind: str, what: str, estimate: str):
        self.kind, self.what = kind, what
        self.HELP = f"Time and memory of {what}; --peer: in turns with segmentation_models_pytorch on torch. {estimate}"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--peer",
            nargs="*",
            choices=PEER_NAMES,
            help="measure smp on torch, too: eager, by torch.compile (which needs a C compiler), or, by default, both",
        )
        parser.add_argument("--models", nargs="+", default=list(NETWORKS), help="MODEL/BACKBONE ...")
        parser.add_argument("--batch_size", type=int, default=4)
        parser.add_argument("--image_size", type=int, default=256)
        parser.add_argument("--num_classes", type=int, default=12)
        parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
        parser.add_argument("--turns", type=int, default=7, help="turns of each side; medians are reported")
        parser.add_argument("--steps", type=int, default=3, help="steps a turn")
        parser.add_argument("--xla_flags", default="", help="XLA_FLAGS for kseg's side, beside those of the environment")
        parser.add_argument(
            "--peak_tflops", type=float, help="of the device in this precision, for the FLOP utilisation; known for some"
        )
        parser.add_argument("--json", type=Path, help="write the numbers into this file, too")
        parser.add_argument(
            "--from_json", type=Path, help="measure nothing: show, or --write, what --json kept on another machine"
        )
        parser.add_argument(
            "--write", action="store_true", help="put table and plot into docs/performance.md, and the numbers beside it"
        )

    def run(self, arguments: argparse.Namespace) -> None:
        if arguments.from_json:
            result = read_numbers(arguments.from_json, self.kind)
            self.publish(result, write=arguments.write, file=None)
        else:
            result = self.measure(arguments)
        print(table(result))

    def measure(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Returns settings, machine, and a row for each network; what there is so far is written after each."""
        self.check(arguments)
        names = ("models", "batch_size", "image_size", "num_classes", "precision", "turns", "steps", "xla_flags", "peak_tflops")
        settings = {name: getattr(arguments, name) for name in names} | {"peers": peers(arguments)}
        result: dict[str, Any] = {"kind": self.kind, "machine": machine(PACKAGES), "settings": settings, "rows": []}
        for network in arguments.models:
            work = Work(
                self.kind, network, arguments.batch_size, arguments.image_size, arguments.num_classes, arguments.precision
            )
            sides = measure(
                work,
                ["kseg", *settings["peers"]],
                turns=arguments.turns,
                steps=arguments.steps,
                xla_flags=arguments.xla_flags,
            )
            result["rows"].append({"work": asdict(work), "sides": sides})
            self.publish(result, write=arguments.write, file=arguments.json)
        return result

    def check(self, arguments: argparse.Namespace) -> None:
        """Raises KsegError for what cannot be measured, before anything is."""
        check_networks(arguments.models, peer=bool(peers(arguments)))
        for name, least in (("batch_size", 1), ("image_size", 32), ("num_classes", 1), ("turns", 1), ("steps", 1)):
            if getattr(arguments, name) < least:
                raise KsegError(f"--{name}={getattr(arguments, name)}: must be at least {least}")
        for network in arguments.models:
            if self.kind == "step" and peers(arguments) and arguments.batch_size == 1 and network.startswith("deeplab"):
                raise KsegError(f"--batch_size=1: torch cannot train {network} on one image (batch norm of one pixel); use 2")

    def publish(self, result: dict[str, Any], *, write: bool, file: Path | None) -> None:
        """Writes what there is so far: a run that is stopped leaves what it measured."""
        if file:
            write_numbers(file, result)
        if write:
            from benchmarks.charts import ratios_chart

            name = section(result)
            write_numbers(NUMBERS / f"{name}.json", result)
            text = table(result)
            if ratios := chart_rows(result):
                with atomic_path(NUMBERS / f"{name}.png") as temporary:
                    temporary.write_bytes(ratios_chart(ratios))
                text += f"\n\n![Time and memory of {self.what}, kseg / smp](performance/{name}.png)"
            write_between(PAGE, name, text)


STEP = Speed("step", "a training step", "About 20 minutes on two idle cores with --peer.")
INFER = Speed("infer", "inference", "About 10 minutes on two idle cores with --peer.")


def peers(arguments: argparse.Namespace) -> list[str]:
    """The peers that --peer names."""
    if arguments.peer is None:
        return []
    return arguments.peer or list(PEER_NAMES)


def platform(result: dict[str, Any]) -> str:
    """ "cpu" or "gpu"."""
    return result["rows"][0]["sides"]["kseg"]["ready"]["platform"]


def section(result: dict[str, Any]) -> str:
    """Where a result stands in the page, and the name of its files: step, infer, step-gpu, infer-gpu."""
    return place(result["kind"], platform(result))


def command(result: dict[str, Any]) -> str:
    """The command line that measures this again, which `check` reads from the page."""
    settings = result["settings"]
    words = ["python", "scripts/benchmark.py", result["kind"]]
    if settings["peers"]:
        words += ["--peer", *settings["peers"]]
    words += ["--models", *settings["models"]]
    words += [f"--{name}={settings[name]}" for name in ("batch_size", "image_size", "num_classes", "precision", "turns", "steps")]
    words += [f"--{name}={settings[name]}" for name in ("xla_flags", "peak_tflops") if settings[name]]
    return shlex.join(words)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    settings, here = result["settings"], result["machine"]
    ready = result["rows"][0]["sides"]["kseg"]["ready"]
    on_gpu = platform(result) == "gpu"
    lines = [
        f"{in_words(here)}{', ' + ready['device'] if on_gpu else ''}. Batch {settings['batch_size']} at "
        f"{settings['image_size']}x{settings['image_size']}, {settings['num_classes']} classes, {settings['precision']}; medians "
        f"of {settings['turns']} turns of {settings['steps']} steps; load average before the run {here['load_before']}. "
        f"`{command(result)}`",
        "",
        _row(*COLUMNS),
        f"|{'---|' * len(COLUMNS)}",
    ]
    for row in result["rows"]:
        names = [name for name in row["sides"] if name != "kseg"]
        lines += [_row(*_cells(result, row, peer)) for peer in names or [None]]
    if used := _utilisation(result):
        lines += ["", used]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(result: dict[str, Any], row: dict[str, Any], peer: str | None) -> list[str]:
    work, sides = row["work"], row["sides"]
    ours = seconds(sides["kseg"])
    first = [network_title(work["network"]), PEER_NAMES[peer] if peer else "", f"{1e3 * ours:.4g}"]
    speed, mine = f"{work['batch_size'] / ours:.4g}", _megabytes(memory(sides["kseg"]))
    if not peer:
        return [*first, "", "", speed, mine, "", "", ""]
    if "failed" in sides[peer]["ready"]:
        return [*first, f"failed: {sides[peer]['ready']['failed'].replace('|', '/')}", "", speed, mine, "", "", ""]
    ratios, share = time_ratios(sides, peer), memory_ratio(sides, peer)
    times = [f"{1e3 * seconds(sides[peer]):.4g}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
    memories = [mine, _megabytes(memory(sides[peer])), "" if share is None else f"{share:.2f}"]
    return [*first, *times, speed, *memories, verdicts((result["kind"], platform(result)), work, peer, median(ratios), share)]


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _utilisation(result: dict[str, Any]) -> str:
    """FLOP utilisation of every side, in a sentence; nothing where the device's peak is not known."""
    settings = result["settings"]
    device = result["rows"][0]["sides"]["kseg"]["ready"]["device"]
    peak = settings["peak_tflops"] or peak_tflops(device, settings["precision"])
    if not peak:
        return ""
    passes = 3 if result["kind"] == "step" else 1  # the backward pass multiplies twice as much as the forward pass
    parts = []
    for row in result["rows"]:
        flops = passes * row["sides"]["kseg"]["ready"]["flops"] * row["work"]["batch_size"]
        shares = {
            PEER_NAMES.get(name, name): flops / seconds(side) / (1e12 * peak)
            for name, side in row["sides"].items()
            if side["turns"]
        }
        network = network_title(row["work"]["network"])
        parts.append(f"{network} " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    counted = "three times the forward pass's multiplications and additions" if passes == 3 else "multiplications and additions"
    return f"Model FLOP utilisation, of {peak:g} TFLOP/s ({counted}, as `kseg.training.summary.count_flops` has them): {'; '.join(parts)}."


def chart_rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the plot shows: {"NETWORK, PEER": {"time": the turns' ratios, "memory": a ratio or None}}."""
    rows = {}
    for row in result["rows"]:
        for peer, side in row["sides"].items():
            if peer != "kseg" and side["turns"]:
                ratios = {"time": time_ratios(row["sides"], peer), "memory": memory_ratio(row["sides"], peer)}
                rows[f"{row['work']['network'].replace('/', ' on ')}\n{PEER_NAMES[peer]}"] = ratios
    return rows
