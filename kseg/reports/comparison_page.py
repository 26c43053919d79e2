"""The page of kseg.report --compare: runs side by side in one HTML file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config.fields import as_typed
from kseg.data.palette import IGNORED
from kseg.metrics.bootstrap import LEVEL
from kseg.reports.comparison import Compared, difference, differing_settings, not_comparable
from kseg.reports.figures import compared_chart
from kseg.reports.html import css_width, data_uri, hex_colors, template, write_page


def write_comparison(path: Path, runs: Sequence[Compared]) -> list[str]:
    """Writes the page. Returns what limits the comparison, a line each: runs that were not finished or are not comparable."""
    first, others = runs[0], runs[1:]
    reasons = {other.name: reason for other in others if (reason := not_comparable(first, other))}
    comparable = [run for run in runs if run.scored and run.name not in reasons] if first.scored else []
    unfinished = [
        f"unfinished: {run.name} has {len(run.metrics)} of {run.config.epochs} epochs"
        + ("; its scores are those of its best epoch when it was stopped" if run.scored else "")
        for run in runs
        if not run.finished
    ]
    notes = [*unfinished, *(f"not comparable: {reason}" for reason in dict.fromkeys(reasons.values()))]
    curves = {run.name: run.metrics for run in runs if run.metrics}
    chart = compared_chart(curves, {run.name: run.best_epoch for run in runs}) if curves else None
    best = max((run.mean_iou for run in comparable if run.mean_iou is not None), default=math.nan)
    page = template("comparison.html.jinja").render(
        runs=runs,
        first=first,
        notes=notes,
        best=best if len(comparable) > 1 else math.nan,
        comparable={run.name for run in comparable},
        differences={run.name: _difference(first, run) for run in others if run in comparable},
        level=LEVEL,
        classes=_classes(comparable) if len(comparable) > 1 else [],
        compared=comparable,
        settings={name: [_typed(value) for value in values] for name, values in differing_settings(runs).items()},
        chart=chart and {"src": data_uri(chart, "PNG"), "width": css_width(chart)},
        ignored="#{:02x}{:02x}{:02x}".format(*IGNORED),
    )
    write_page(path, page)
    return notes


def _difference(first: Compared, other: Compared) -> dict[str, Any]:
    assert first.mean_iou is not None and other.mean_iou is not None  # comparable runs are scored
    interval = difference(first, other)
    sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {"value": other.mean_iou - first.mean_iou, "interval": interval, "sure": sure}


def _typed(value: Any) -> str:
    return "-" if value in (None, "", ()) else str(as_typed(value))


def _classes(runs: Sequence[Compared]) -> list[dict[str, Any]]:
    """The rows of the table of IoUs, with the run or runs of the best in each."""
    colors = hex_colors(len(runs[0].class_names))
    rows = []
    for index, name in enumerate(runs[0].class_names):
        values = np.array([run.iou[index] for run in runs])
        known = np.isfinite(values)
        tells = known.any() and (values[known].max() > values[known].min() or not known.all())
        best = (values == np.nanmax(values)) if tells else np.zeros(len(values), bool)
        rows.append({"name": name, "color": colors[index], "cells": list(zip(values.tolist(), best.tolist(), strict=True))})
    return rows
