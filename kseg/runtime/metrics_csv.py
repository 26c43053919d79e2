"""Reads metrics.csv, a row an epoch."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns a dict an epoch, with "epoch" counted from 1; nan where a value is missing or not finite. [] without a file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [{name: _number(value) for name, value in row.items() if name} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"]) + 1} for row in rows if 0 <= row.get("epoch", math.nan) < 2**31]


def best_epoch(metrics: Sequence[Mapping[str, float]], monitor: str, mode: str) -> int:
    """Returns the epoch whose model a run keeps: the first with the best finite value of `monitor`, or 0 if there is none.

    metrics: from read_metrics. mode: "max" or "min".
    """
    sign = 1 if mode == "max" else -1
    known = [row for row in metrics if math.isfinite(row.get(monitor, math.nan))]
    return int(max(known, key=lambda row: sign * row[monitor])["epoch"]) if known else 0


def _number(text: str | None) -> float:
    try:
        value = float(text or "")
    except (TypeError, ValueError):  # a truncated row, or the "NA" of CSVLogger
        return math.nan
    return value if math.isfinite(value) else math.nan
