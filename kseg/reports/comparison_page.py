"""Writes the page of kseg.report --compare."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config.fields import as_typed
from kseg.data.palette import hex_colors
from kseg.metrics.bootstrap import LEVEL
from kseg.reports.comparison import ComparedRun, difference, differing_settings, not_comparable
from kseg.reports.figures import compared_chart
from kseg.reports.html import chart_image, template, write_page


def write_comparison(path: Path, runs: Sequence[ComparedRun]) -> list[str]:
    """Writes the page. Returns one line for each run that is unfinished or cannot be compared with the first."""
    first, others = runs[0], runs[1:]
    reasons = {other.name: reason for other in others if (reason := not_comparable(first, other))}
    comparable = [run for run in runs if run.evaluated and run.name not in reasons] if first.evaluated else []
    unfinished = [
        f"unfinished: {run.name} has {len(run.metrics)} of {run.config.epochs} epochs"
        + ("; its scores are those of its best epoch so far" if run.evaluated else "")
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
        chart=chart and chart_image(chart),
    )
    write_page(path, page)
    return notes


def _difference(first: ComparedRun, other: ComparedRun) -> dict[str, Any]:
    assert first.mean_iou is not None and other.mean_iou is not None  # comparable runs are evaluated
    interval = difference(first, other)
    significant = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {"value": other.mean_iou - first.mean_iou, "interval": interval, "significant": significant}


def _typed(value: Any) -> str:
    return "-" if value in (None, "", ()) else str(as_typed(value))


def _classes(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Returns the rows of the IoU table; the best runs of a class are marked unless all are equal."""
    colors = hex_colors(len(runs[0].class_names))
    rows = []
    for index, name in enumerate(runs[0].class_names):
        values = np.array([run.iou[index] for run in runs])
        known = np.isfinite(values)
        differ = known.any() and (values[known].max() > values[known].min() or not known.all())
        best = (values == np.nanmax(values)) if differ else np.zeros(len(values), bool)
        rows.append({"name": name, "color": colors[index], "cells": list(zip(values.tolist(), best.tolist(), strict=True))})
    return rows
