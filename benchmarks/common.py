"""Shared by the benchmarks: the machine's description, result files, and tables in Markdown pages."""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path, write_text
from kseg.utils.system import usable_cores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Result = dict[str, Any]
"""One measurement, as JSON: "benchmark" (its command), "variant" (such as "gpu"), "machine", "settings", and the numbers."""
Save = Callable[[Result], None]


@dataclass(frozen=True)
class Benchmark:
    """One command of `python -m benchmarks`.

    measure(arguments, save): returns the result. It calls save after each part, so that a run that is stopped leaves what it
    measured. table: the result in Markdown. chart: the result as a PNG, or None where there is nothing to draw. alt: its text.
    charts: its folder, where it stands above the table; by default RESULTS, and it stands below.
    overview: one table of all variants' results.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace, Save], Result]
    table: Callable[[Result], str]
    chart: Callable[[Result], bytes | None] | None = None
    alt: str = ""
    overview: Callable[[Sequence[Result]], str] | None = None
    charts: Path | None = None


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Returns the date, processor, cores, load average, and the versions of those packages that are installed."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu)
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": usable_cores(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def new_result(benchmark: str, packages: Sequence[str], settings: dict[str, Any], **parts: Any) -> Result:
    """Returns a result that holds nothing measured yet."""
    return {"benchmark": benchmark, "variant": "", "machine": machine(packages), "settings": settings, **parts}


def result_name(result: Result) -> str:
    """Returns the name of a result's files and of its place in pages, such as "step-gpu"."""
    return "-".join(filter(None, (result["benchmark"], result["variant"])))


def read_result(path: Path) -> Result:
    """Reads a result. Raises KsegError if the file is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KsegError(f"{path}: cannot be read ({error}); name a file that a benchmark wrote") from None
    if not isinstance(result, dict) or "benchmark" not in result:
        raise KsegError(f"{path}: holds no benchmark's result; name a file that a benchmark wrote")
    return result


def write_numbers(path: Path, numbers: Any) -> None:
    """Writes measured numbers as JSON, atomically."""
    write_text(path, json.dumps(numbers, indent=1) + "\n")


def publish(benchmark: Benchmark, result: Result) -> None:
    """Writes a result and its chart into results/, and its tables into every page that has a place for them."""
    name = result_name(result)
    write_numbers(RESULTS / f"{name}.json", result)
    if picture := benchmark.chart and benchmark.chart(result):
        with atomic_path(picture_path(benchmark, result)) as temporary:
            temporary.write_bytes(picture)
    for page in pages():
        for place, text in page_texts(benchmark, result, page).items():
            if f"<!-- {place} -->" in page.read_text(encoding="utf-8"):
                write_between(page, place, text)


def picture_path(benchmark: Benchmark, result: Result) -> Path:
    """Returns the file of a result's chart."""
    return (benchmark.charts or RESULTS) / f"{result_name(result)}.png"


def page_texts(benchmark: Benchmark, result: Result, page: Path) -> dict[str, str]:
    """Returns {place: text} of what a page can show of a result: its table with its chart, and the overview."""
    name, text = result_name(result), benchmark.table(result)
    picture = picture_path(benchmark, result)
    if picture.exists():
        image = f"![{benchmark.alt}]({os.path.relpath(picture, page.parent)})"
        text = f"{image}\n\n{text}" if benchmark.charts else f"{text}\n\n{image}"
    texts = {name: text}
    if benchmark.overview:
        files = sorted(RESULTS.glob(f"{result['benchmark']}*.json"), key=lambda file: file.stem)
        texts[f"{result['benchmark']}-overview"] = benchmark.overview([read_result(file) for file in files])
    return texts


def pages() -> list[Path]:
    """Returns the Markdown pages of docs/ and benchmarks/."""
    return [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


def read_between(page: Path, name: str) -> str:
    """Returns the text between <!-- NAME --> and <!-- /NAME --> in a page."""
    return _split(page, name)[1].strip()


def write_between(page: Path, name: str, text: str) -> None:
    """Replaces the text between <!-- NAME --> and <!-- /NAME --> in a page."""
    before, _, after = _split(page, name)
    write_text(page, f"{before}\n{text.rstrip()}\n{after}")


def _split(page: Path, name: str) -> tuple[str, str, str]:
    """A page up to the first mark of a place, the text between, and the rest from the last mark on."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    if not found or end not in rest:
        raise KsegError(f"{page}: has no place marked {start} ... {end}")
    inside, _, after = rest.partition(end)
    return before + start, inside, end + after


def caption(result: Result, text: str, device: str = "cpu") -> str:
    """Returns the paragraph above a table: machine and versions, then the text that says what was measured."""
    here = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    parts = [here["date"], here["cpu"], f"{here['cores']} cores", f"Python {here['python']}", versions]
    where = ", ".join(filter(None, [*parts, "" if device == "cpu" else device]))
    return f"{where}. {text}; load average before the run {here['load_before']}."


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def batch(settings: dict[str, Any]) -> str:
    """Returns the batch in a caption: "batch 4 at 256x256, 12 classes"."""
    size = settings["image_size"]
    return f"batch {settings['batch_size']} at {size}x{size}, {settings['num_classes']} classes"


def title(network: str) -> str:
    """Returns a network's name in tables: "deeplabv3plus on resnet50" for deeplabv3plus/resnet50."""
    return network.replace("/", " on ")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Returns the ratio of each round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Returns the median with the lowest and highest value: "1.07 (1.02 to 1.15)"."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
