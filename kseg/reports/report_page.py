"""Writes the page of a run, report.html: scores, curves, confusion matrix and examples; and its figures as PNG files."""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kseg.config import PYTHON, TrainConfig, better, flag_lines
from kseg.data.dataset import Dataset
from kseg.data.palette import hex_colors
from kseg.inference.source import run_credits
from kseg.metrics.bootstrap import LEVEL, mean_iou_interval
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.scores import scores
from kseg.reports.examples import examples
from kseg.reports.figures import confusion_chart, curves_chart, iou_chart
from kseg.reports.html import chart_image, template, write_page
from kseg.runtime.run_dir import RunDir
from kseg.utils.files import atomic_path, read_json

_SKIPPED_SHOWN = 10
_HARDEST = 5  # hardest classes on the page, at most
_CONFUSED = 0.01  # smallest share of confused pixels to show


def write_report(
    run: RunDir,
    config: TrainConfig,
    evaluation: Evaluation,
    dataset: Dataset,
    predictor: Callable[[Sequence[int]], Iterable[tuple[np.ndarray, np.ndarray]]],
    *,
    best_epoch: int,
    shown: Evaluation | None = None,
    note: str = "",
) -> None:
    """Writes the page to run.report and its figures to run.figures.

    evaluation: of the best epoch's model on `dataset`, the validation split. predictor: a Predictor, for the examples.
    best_epoch: from 1; 0 if there was none. shown: of the images of `dataset` alone, if these are only some. note: at what size
    it was scored, if not at the labels' own. Without metrics.csv or environment.json, the page lacks the sections that show them.
    """
    total = evaluation.scores
    absent = np.isnan(total.iou)
    metrics = run.read_metrics()
    charts = {
        "iou": iou_chart(evaluation.class_names, total),
        "confusion_matrix": confusion_chart(evaluation.class_names, evaluation.confusion_matrix),
    }
    if metrics:
        charts["curves"] = curves_chart(metrics, best_epoch)
    groups, strips = examples(shown or evaluation, dataset, predictor)
    for name, png in (charts | strips).items():
        with atomic_path(run.figures / f"{name}.png") as temporary:
            temporary.write_bytes(png)

    share = total.pixels / max(total.pixels.sum(), 1)
    low, high = mean_iou_interval(evaluation.matrices)
    columns = {
        "name": evaluation.class_names, "color": hex_colors(len(absent)), "iou": total.iou, "precision": total.precision,
        "recall": total.recall, "dice": total.dice, "pixels": total.pixels, "share": share, "absent": absent,
        "unlabelled": total.pixels == 0,
    }  # fmt: skip
    page = template("report.html.jinja").render(
        config=config,
        flags=flag_lines(config),
        environment=_read_environment(run),
        command=_command(run, config),
        credits=run_credits(run, config),
        note=note,
        scored=(how := config.scale.evaluation()) and f"at the images' own size, {how}",
        scores=total,
        images=len(evaluation.matrices),
        unranked=len(evaluation.matrices) - len(evaluation.ranking()),
        interval={"low": low, "high": high, "level": LEVEL},
        classes=[dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)],
        hardest=hardest_classes(evaluation.class_names, evaluation.confusion_matrix),
        labelled=bool(total.pixels.any()),
        frequent=evaluation.class_names[int(total.pixels.argmax())],
        best_epoch=best_epoch,
        better={"max": "highest", "min": "lowest"}[better(config.selection.monitor, config.selection.monitor_mode)],
        best=next((row for row in metrics if row.get("epoch") == best_epoch), {}),
        epochs=len(metrics),
        skipped=_read_skipped(run),
        skipped_shown=_SKIPPED_SHOWN,
        charts={name: chart_image(png) for name, png in charts.items()},
        groups=groups,
    )
    write_page(run.report, page)


def _command(run: RunDir, config: TrainConfig) -> str:
    """Returns what computes the scores again."""
    if config.data.dataset == PYTHON:
        return f"kseg.load({str(run.path)!r}).evaluate(val)"
    return f"python -m kseg.evaluate --model={shlex.quote(str(run.path))}"


@dataclass(frozen=True)
class HardClass:
    """A class of low IoU and the classes that it is confused with most.

    missed_as: (other class, share of this class's pixels predicted as it), or None. mixed_with: (other class, share of the pixels
    predicted as this class that are labelled as it), or None.
    """

    name: str
    iou: float
    missed_as: tuple[str, float] | None
    mixed_with: tuple[str, float] | None


def hardest_classes(class_names: Sequence[str], matrix: np.ndarray, most: int = _HARDEST) -> list[HardClass]:
    """Returns the labelled classes of lowest IoU, lowest first: at most `most`, and at most half of the labelled classes.

    matrix: counts [C, C] (true, predicted). Classes without errors are left out.
    """
    total = scores(matrix)
    labelled = np.flatnonzero(total.pixels > 0)
    order = labelled[np.argsort(total.iou[labelled], kind="stable")][: min(most, -(-len(labelled) // 2))]
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    predicted = matrix.sum(0)

    def most_confused(counts, whole):
        other = int(counts.argmax())
        return (class_names[other], float(counts[other] / whole)) if counts[other] > _CONFUSED * whole else None

    return [
        HardClass(
            class_names[index],
            float(total.iou[index]),
            most_confused(wrong[index], total.pixels[index]),
            most_confused(wrong[:, index], predicted[index]),
        )
        for index in order.tolist()
        if total.iou[index] < 1
    ]


def _read_environment(run: RunDir) -> dict[str, str]:
    content = read_json(run.environment)
    if isinstance(versions := content.pop("versions", None), dict):
        content |= versions
    if isinstance(command := content.get("command"), list):
        content["command"] = shlex.join(map(str, command))
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def _read_skipped(run: RunDir) -> list[str]:
    return run.skipped.read_text(encoding="utf-8", errors="replace").splitlines() if run.skipped.exists() else []
