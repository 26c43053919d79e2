"""The tables and the chart of the benchmark models."""

import re
import textwrap
from collections.abc import Sequence
from statistics import median

from benchmarks.charts import sizes_chart
from benchmarks.common import Result, caption, markdown, ratios
from benchmarks.rows import Row

KINDS = {"infer": "inference", "step": "training step"}
SLOW = 3.0
"""A training step that takes longer than this many of smp's is named below the table."""
DRAWN = (
    "mobilenetv3", "mobileone", "resnet", "regnety", "tf_efficientnet", "tf_efficientnetv2", "convnext", "mit", "hrnet", "swin",
)  # fmt: skip
"""Families with a line of their own in the chart; the dots of others are grey."""
REASONS = {
    "mobileone fused": "this is the form for inference; training uses the other one",
}
"""Why a training step is SLOW, by the family of the backbone or model."""


def table(result: Result) -> str:
    """Returns the table of backbones in Markdown."""
    settings, rows = result["settings"], [row for row in result["rows"] if "model" not in row]
    text = "Parameters in millions, of the features only. GFLOPs of the backbone alone at 512x512, two for each multiply-add"
    if _timed(rows):
        size = settings["image_size"]
        text += (
            f". Times of the backbone with a 1x1 convolution on c5, batch {settings['batch_size']} at {size}x{size}, float32, "
        )
        text += f"kseg / smp (eager torch) and in brackets the ratio, medians of {settings['rounds']} rounds"
    columns = ["backbone", "output strides", "parameters", "GFLOPs", *_timed(rows), "weights", "licence"]
    lines = []
    for row in sorted(rows, key=_order):
        names = f"`{row['name']}`" + (f" ({', '.join(f'`{name}`' for name in row['others'])})" if row["others"] else "")
        strides = ", ".join(map(str, row["strides"]))
        lines.append([names, strides, *_numbers(row), *_times(row, rows), *_weights(row["weights"])])
    return "\n\n".join(filter(None, [_wrap(caption(result, text)), markdown(columns, lines), _slow(rows), _failures(rows)]))


def models_table(results: Sequence[Result]) -> str:
    """Returns the table of models in Markdown."""
    rows = [row for result in results for row in result["rows"] if "model" in row]
    columns = ["model", "backbone", "parameters", "GFLOPs", *_timed(rows)]
    lines = [[f"`{row['name']}`", f"`{row['backbone']}`", *_numbers(row), *_times(row, rows)] for row in rows]
    return "\n\n".join(filter(None, [markdown(columns, lines), _slow(rows), _failures(rows)]))


def _order(row: Row) -> tuple[str, float]:
    """By family, then by size."""
    return family(row["name"]), row.get("parameters", 0)


def family(name: str) -> str:
    """Returns a backbone's family: "resnet" of resnet18, "resnet d" of resnet18d, "vgg bn" of vgg16_bn."""
    match = re.match(r"(?:tf_|timm-|se_|torchvision_)*[a-z]+(?:(?<=v)\d)?(?:_lite)?", name)
    form = re.search(r"(?<=^resnet\d\d)d$|(?<=^resnet\d\d\d)d$|(?<=_)(?:bn|fused)$", name)
    return " ".join(part[0] for part in (match, form) if part)


def _numbers(row: Row) -> list[str]:
    return [f"{row['parameters'] / 1e6:.1f}", f"{row['flops'] / 1e9:.3g}"] if "parameters" in row else ["", ""]


def _timed(rows: Sequence[Row]) -> list[str]:
    """The columns of times, if any row has some."""
    return [f"{title}, ms" for title in KINDS.values()] if any("times" in row for row in rows) else []


def _times(row: Row, rows: Sequence[Row]) -> list[str]:
    return [cell(row, kind) for kind in KINDS] if _timed(rows) else []


def cell(row: Row, kind: str) -> str:
    """Returns "20 / 18 (1.11)", kseg's and smp's milliseconds and their ratio, or what there is of it."""
    if "times" not in row:
        return ""
    times = row["times"][kind]
    medians = " / ".join(_milliseconds(median(times[name])) for name in times)
    return f"{medians} ({ratio(row, kind):.2f})" if "eager" in times else medians


def ratio(row: Row, kind: str) -> float:
    """Returns kseg's time over smp's: the median over the rounds."""
    return median(ratios(row["times"][kind]["kseg"], row["times"][kind]["eager"]))


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds >= 0.01 else f"{1e3 * seconds:.1f}"


def _weights(weights: dict[str, str | None]) -> list[str]:
    """The cells of tags and licences."""
    by_licence: dict[str, list[str]] = {}
    for tag, licence in weights.items():
        short = "permissive" if licence is None else re.split(r"[:,]", licence)[0].removeprefix("the ")
        by_licence.setdefault(short, []).append(f"`{tag}`")
    licences = [short if len(by_licence) == 1 else f"{short} ({', '.join(tags)})" for short, tags in by_licence.items()]
    return [", ".join(f"`{tag}`" for tag in weights), "; ".join(licences)]


def _slow(rows: Sequence[Row]) -> str:
    """Names the members whose training step takes more than SLOW of smp's, with the reason."""
    timed = [row for row in rows if "eager" in row.get("times", {}).get("step", {})]
    slow = [row for row in timed if ratio(row, "step") > SLOW]
    if not timed:
        return ""
    if not slow:
        return f"No training step takes more than {SLOW:g} times smp's."
    by_reason: dict[str, list[str]] = {}
    for row in slow:
        reason = REASONS.get(family(row["name"]), "not explained yet")
        by_reason.setdefault(reason, []).append(f"`{row['name']}` ({ratio(row, 'step'):.1f})")
    parts = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return _wrap(f"A training step takes more than {SLOW:g} times smp's for {'; '.join(parts)}.")


def _failures(rows: Sequence[Row]) -> str:
    return "\n".join(_wrap(f"- `{row['name']}` failed: {row['failed'].replace('|', '/')}") for row in rows if "failed" in row)


def _wrap(text: str) -> str:
    return textwrap.fill(text, 128, break_long_words=False, break_on_hyphens=False)


def chart(result: Result) -> bytes | None:
    """Draws time against size; None without times."""
    points: dict[str, list[tuple[float, ...]]] = {name: [] for name in DRAWN}
    for row in sorted((row for row in result["rows"] if "model" not in row and "times" in row), key=_order):
        ours = [median(row["times"][kind]["kseg"]) for kind in KINDS]
        name = family(row["name"])
        size = (row["parameters"] / 1e6, *(1e3 * seconds for seconds in ours))
        points.setdefault(name if name in DRAWN else "other", []).append(size)
    found = {name: values for name, values in points.items() if values}
    return sizes_chart(found, [f"{title}, kseg, ms".capitalize() for title in KINDS.values()]) if found else None
