"""The table of the experiments, as HTML and as Markdown, and their curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.data.palette import IGNORED
from kseg.reports.figures import runs_chart
from kseg.reports.html import css_width, data_uri, template, write_page
from kseg.utils.files import atomic_path, write_text

COLUMNS = (
    "experiment", "diary: leaderboard", "diary: validation", "mIoU", "batch-averaged", "constant", "epochs", "s an epoch",
    "input, batch", "peak memory, MB", "parameters, M", "GFLOPs",
)  # fmt: skip
NOTES = (
    "mIoU: one confusion matrix over all validation images, at the labels' own size. Batch-averaged: the mean of each batch's "
    "mIoU on the same predictions, which misled the diary. Constant: what predicting one class everywhere would score.",
    "Seconds an epoch: the median, validation included. Peak memory: of the training process, without those that load images. "
    "GFLOPs: of an image's forward pass.",
)


def write_pages(folder: Path, title: str, rows: Sequence[dict[str, Any]], *, comparable: bool) -> None:
    """Writes experiments.html, experiments.md and curves.png into the folder.

    title: which data and scale. rows: an experiment each, with what kseg's run came to, or why it failed. comparable: the data
    and the scale are the diary's.
    """
    warning = (
        ""
        if comparable
        else "The diary's numbers are of other data or another scale: they do not compare with those beside them."
    )
    table = [cells(row) for row in rows]
    curves = {row["id"]: row["val_mean_ious"] for row in rows if "val_mean_ious" in row}
    chart = runs_chart(curves) if curves else None
    if chart:
        with atomic_path(folder / "curves.png") as temporary:
            temporary.write_bytes(chart)
    lines = [f"# The diary's experiments on {title}", "", *([f"**{warning}**", ""] if warning else [])]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *(f"| {' | '.join(row)} |" for row in table), ""]
    lines += [*(f"{note}\n" for note in NOTES), *(["![Validation mIoU by epoch](curves.png)"] if chart else [])]
    write_text(folder / "experiments.md", "\n".join(lines).rstrip() + "\n")
    page = template("experiments.html.jinja", Path(__file__).parent).render(
        title=title,
        warning=warning,
        columns=COLUMNS,
        rows=[{"cells": made, "tooltip": row["title"], "failed": "failed" in row} for made, row in zip(table, rows, strict=True)],
        notes=NOTES,
        ignored="#{:02x}{:02x}{:02x}".format(*IGNORED),
        chart=chart and {"src": data_uri(chart, "PNG"), "width": css_width(chart)},
    )
    write_page(folder / "experiments.html", page)


def cells(row: dict[str, Any]) -> list[str]:
    """What stands in a row, by COLUMNS."""
    diary = [f"{row['id']} {row['title'].split(',')[0]}", *(_number(row[name], ".4f") for name in ("leaderboard", "validation"))]
    if "failed" in row:
        reason = row["failed"].replace("|", "/")[:200]
        return [*diary, f"failed: {reason}", *[""] * (len(COLUMNS) - len(diary) - 1)]
    scores = [_number(row[name], ".4f") for name in ("mean_iou", "batch_mean_iou", "constant_mean_iou")]
    height, width = row["image_size"]
    flops = None if row["flops"] is None else row["flops"] / 1e9
    cost = [_number(row["peak_memory_mb"], ".0f"), _number(row["parameters"] / 1e6, ".1f"), _number(flops, ".1f")]
    return [
        *diary,
        *scores,
        str(row["epochs"]),
        _number(row["epoch_seconds"], ".1f"),
        f"{height}x{width}, {row['batch_size']}",
        *cost,
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None or value != value else f"{value:{form}}"
