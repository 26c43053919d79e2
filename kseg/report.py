"""The page of a run: scores, curves, confusions and pictures in one HTML file, and the figures as PNG files beside it."""

import csv
import json
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from kseg.config import TrainConfig, better, flag_lines
from kseg.data.dataset import Dataset, Sample
from kseg.evaluation import Evaluation
from kseg.figures import confusion_chart, curves_chart, iou_chart
from kseg.metrics import scores
from kseg.page import css_width, data_uri, encode, hex_colors, shrink, template, write_page
from kseg.palette import IGNORED, colorize, stripes
from kseg.run import RunDir, atomic_path
from kseg.scoring import Predictor

_EXAMPLES = 3  # of each: best, median, worst
_SKIPPED_SHOWN = 10


def write_report(
    run: RunDir, config: TrainConfig, evaluation: Evaluation, dataset: Dataset, predictor: Predictor, *, best_epoch: int
) -> None:
    """Writes run.report, one file that needs neither network nor scripts, and its figures as PNG files into run.figures.

    evaluation: the best epoch's model on all of `dataset`, the validation split. predictor: predicts the example pictures.
    best_epoch: from 1; 0 if there was none. What the run directory lacks (metrics.csv, environment.json) is left out of the page.
    """
    total = evaluation.scores
    absent = np.isnan(total.iou)
    metrics = _read_metrics(run)
    charts = {
        "iou": iou_chart(evaluation.class_names, total),
        "confusion_matrix": confusion_chart(evaluation.class_names, evaluation.confusion_matrix),
    }
    if metrics:
        charts["curves"] = curves_chart(metrics, best_epoch)
    groups, triples = _examples(evaluation, dataset, predictor)
    for name, png in (charts | triples).items():
        with atomic_path(run.figures / f"{name}.png") as temporary:
            temporary.write_bytes(png)

    share = total.pixels / max(total.pixels.sum(), 1)
    columns = (evaluation.class_names, hex_colors(len(absent)), total.iou, total.dice, share, absent, total.pixels == 0)
    keys = ("name", "color", "iou", "dice", "share", "absent", "unlabelled")
    page = template("report.html.jinja").render(
        config=config,
        flags=flag_lines(config),
        environment=_read_environment(run),
        command=f"python -m kseg.evaluate --run_dir={shlex.quote(str(run.path))}",
        scores=total,
        images=len(evaluation.matrices),
        unranked=len(evaluation.matrices) - len(evaluation.ranking()),
        classes=[dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)],
        labelled=bool(total.pixels.any()),
        frequent=evaluation.class_names[int(total.pixels.argmax())],
        best_epoch=best_epoch,
        better={"max": "highest", "min": "lowest"}[better(config.selection.monitor, config.selection.monitor_mode)],
        best=next((row for row in metrics if row.get("epoch") == best_epoch), {}),
        epochs=len(metrics),
        skipped=_read_skipped(run),
        skipped_shown=_SKIPPED_SHOWN,
        charts={name: {"src": data_uri(png, "PNG"), "width": css_width(png)} for name, png in charts.items()},
        groups=groups,
        ignored="#{:02x}{:02x}{:02x}".format(*IGNORED),
    )
    write_page(run.report, page)


def _read_metrics(run: RunDir) -> list[dict[str, float]]:
    """The epochs of metrics.csv, "epoch" counted from 1; nan where a value is missing or no finite number."""
    if not run.metrics.exists():
        return []
    with run.metrics.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [{name: _number(value) for name, value in row.items() if name} for row in csv.DictReader(file)]
    return [{**row, "epoch": row["epoch"] + 1} for row in rows if np.isfinite(row.get("epoch", np.nan))]


def _number(text):
    try:
        value = float(text)
    except (TypeError, ValueError):  # a row that was cut off, or the logger's NA
        return float("nan")
    return value if np.isfinite(value) else float("nan")


def _read_environment(run: RunDir) -> dict[str, str]:
    try:
        content = json.loads(run.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    if isinstance(versions := content.pop("versions", None), dict):
        content |= versions
    if isinstance(command := content.get("command"), list):
        content["command"] = shlex.join(map(str, command))
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def _read_skipped(run: RunDir) -> list[str]:
    return run.skipped.read_text(encoding="utf-8", errors="replace").splitlines() if run.skipped.exists() else []


def _examples(evaluation: Evaluation, dataset: Dataset, predictor: Predictor) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Returns the groups of examples as the page shows them, and a PNG (image, label, prediction) of each by its name."""
    chosen = [
        (group, number, i) for group, indices in _choose(evaluation.ranking()).items() for number, i in enumerate(indices, 1)
    ]
    predictions = predictor([index for *_, index in chosen]) if chosen else ()
    names, colors = evaluation.class_names, hex_colors(len(evaluation.class_names))
    groups: dict[str, dict[str, Any]] = {}
    triples: dict[str, bytes] = {}
    for (group, number, index), (_, prediction) in zip(chosen, predictions, strict=True):
        sample = dataset.load(index)
        shown_panels = panels(sample, prediction, dataset.ignore_index)
        triples[f"{group}_{number}"] = encode(side_by_side(shown_panels), "PNG")
        kinds = ("JPEG", "PNG", "PNG")
        example = {
            "name": sample.name,
            "mean_iou": scores(evaluation.matrices[index]).mean_iou,
            "size": f"{sample.label.shape[1]}x{sample.label.shape[0]}",
            "pictures": [data_uri(encode(panel, kind), kind) for panel, kind in zip(shown_panels, kinds, strict=True)],
        }
        shown = groups.setdefault(group, {"title": group.capitalize(), "examples": [], "values": set()})
        shown["examples"].append(example)
        shown["values"] |= {*np.unique(sample.label).tolist(), *np.unique(prediction).tolist()}
    for shown in groups.values():
        values = shown.pop("values")
        shown["ignored"] = dataset.ignore_index in values
        shown["legend"] = [(names[value], colors[value]) for value in sorted(values - {dataset.ignore_index})]
    return list(groups.values()), triples


def _choose(ranking: np.ndarray) -> dict[str, list[int]]:
    """Image indices of the groups best, median and worst (the worst first), no image twice; empty groups are left out."""
    some, more = divmod(min(len(ranking), 3 * _EXAMPLES), 3)
    best, worst = some + (more > 0), some + (more > 1)
    start = best + (len(ranking) - best - worst - some) // 2
    ranked = ranking.tolist()
    groups = {"best": ranked[:best], "median": ranked[start : start + some], "worst": ranked[::-1][:worst]}
    return {group: indices for group, indices in groups.items() if indices}


def panels(sample: Sample, prediction: np.ndarray, ignore_index: int) -> list[np.ndarray]:
    """Image, label and prediction, uint8 [h, w, 3], small by kseg.page.shrink; ignored pixels are hatched in the last two."""
    image, nearest = shrink(sample.image)
    h, w = image.shape[:2]
    ignored = sample.label[nearest] == ignore_index
    stripe = stripes((h, w))
    label = colorize(np.where(ignored, 255, sample.label[nearest]))
    label[ignored & stripe] = 120
    predicted = colorize(prediction[nearest])
    predicted[ignored & stripe] = IGNORED
    return [image, label, predicted]


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one height, uint8 [h, w, 3], from left to right with white between them."""
    gap = np.full((len(pictures[0]), 8, 3), 255, "uint8")
    return np.hstack([pictures[0], *(part for picture in pictures[1:] for part in (gap, picture))])
