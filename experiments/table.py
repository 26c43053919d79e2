"""Writes the table of the experiments and their curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import runs_chart
from benchmarks.common import markdown
from kseg.utils.files import atomic_path, write_text

COLUMNS = (
    "experiment", "reference: leaderboard", "reference: validation", "mIoU", "batch-averaged", "constant", "epochs", "s an epoch",
    "input, batch", "peak memory, MB", "parameters, M", "GFLOPs",
)  # fmt: skip
WARNING = "**The reference's numbers are of other data or another scale: do not compare them with those beside them.**"
NOTES = (
    "mIoU: one confusion matrix over all validation images, at the labels' own size. Batch-averaged: the mean of each batch's "
    "mIoU on the same predictions, as the reference had it at first. Constant: the score of predicting one class everywhere.",
    "Seconds an epoch: the median, validation included. Peak memory: of the training process, without those that load images. "
    "GFLOPs: of an image's forward pass.",
)


def write_table(folder: Path, title: str, rows: Sequence[dict[str, Any]], *, comparable: bool) -> None:
    """Writes experiments.md and curves.png into the folder.

    title: data and scale. rows: one experiment each, with kseg's results or "failed". comparable: data and scale are the
    reference's.
    """
    curves = {row["id"]: row["val_mean_ious"] for row in rows if "val_mean_ious" in row}
    parts = [f"# The reference experiments on {title}"]
    parts += [*([] if comparable else [WARNING]), markdown(COLUMNS, [_cells(row) for row in rows]), *NOTES]
    if curves:
        with atomic_path(folder / "curves.png") as temporary:
            temporary.write_bytes(runs_chart(curves))
        parts.append("![Validation mIoU by epoch](curves.png)")
    write_text(folder / "experiments.md", "\n\n".join(parts) + "\n")


def _cells(row: dict[str, Any]) -> list[str]:
    name = f"{row['id']} {row['title'].split(',')[0]}"
    reference = [_number(row["leaderboard"], ".4f"), _number(row["validation"], ".4f")]
    if "failed" in row:
        reason = row["failed"].replace("|", "/")[:200]
        return [name, *reference, f"failed: {reason}", *[""] * (len(COLUMNS) - 4)]
    height, width = row["image_size"]
    flops = None if row["flops"] is None else row["flops"] / 1e9
    return [
        name,
        *reference,
        *(_number(row[score], ".4f") for score in ("mean_iou", "batch_mean_iou", "constant_mean_iou")),
        str(row["epochs"]),
        _number(row["epoch_seconds"], ".1f"),
        f"{height}x{width}, {row['batch_size']}",
        _number(row["peak_memory_mb"], ".0f"),
        _number(row["parameters"] / 1e6, ".1f"),
        _number(flops, ".1f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None or value != value else f"{value:{form}}"
