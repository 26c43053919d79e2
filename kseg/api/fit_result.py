"""What Segmenter.fit returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from kseg.metrics.evaluation import Evaluation
from kseg.training.loop import TrainResult
from kseg.utils.images import data_uri

_EXAMPLES = ("median_1", "best_1", "worst_1")
"""Figures of the report, the first of which that there is shows what the model predicts."""


@dataclass(frozen=True)
class FitResult:
    """The result of Segmenter.fit. In a notebook it shows its curves, scores and an example.

    evaluation: of the best epoch's model on the whole validation split, at the labels' own size. split: the split's name.
    run_dir: the run directory; None without one. report: its report.html; None without one. metrics: a dict for each epoch, the
    rows of metrics.csv. best_epoch: from 1; 0 if there was none. seconds: of the whole run. stopped: True if Ctrl-C or a signal
    ended training early; fit(..., run_dir=run_dir, resume=True) goes on.
    """

    evaluation: Evaluation
    split: str
    run_dir: Path | None
    report: Path | None
    metrics: Sequence[dict[str, float]]
    best_epoch: int
    seconds: float
    stopped: bool
    _example: bytes | None = field(default=None, repr=False)

    @property
    def mean_iou(self) -> float:
        """The mean IoU over the classes that occur."""
        return self.evaluation.mean_iou

    @property
    def iou(self) -> dict[str, float]:
        """The IoU of each class by name; nan for one that is in neither labels nor predictions."""
        return self.evaluation.iou

    def __repr__(self) -> str:
        return (
            f"FitResult({self.evaluation.summary(self.split)}, run_dir={None if self.run_dir is None else str(self.run_dir)!r})"
        )

    def _repr_html_(self) -> str:
        """Shows the result in a notebook."""
        from kseg.reports.figures import curves_chart

        where = f", {escape(str(self.run_dir))}" if self.run_dir is not None else ""
        parts = [f"<p>{escape(self.evaluation.summary(self.split))}, {self.seconds:.0f} s{where}</p>"]
        if self.metrics:
            source = data_uri(curves_chart(self.metrics, self.best_epoch), "PNG")
            parts.append(f'<img alt="loss and mIoU by epoch" src="{source}" style="max-width:100%;width:44em">')
        parts.append(self.evaluation._repr_html_())
        if self._example is not None:
            source = data_uri(self._example, "PNG")
            parts.append(
                '<figure style="margin:0"><figcaption>Image, label, prediction and errors</figcaption>'
                f'<img alt="image, label, prediction and errors" src="{source}" style="max-width:100%"></figure>'
            )
        return "\n".join(parts)


def fit_result(result: TrainResult, *, keep: bool) -> FitResult:
    """Returns the FitResult of a run. keep: its directory stays; else what the FitResult shows is read from it now."""
    run, keep = result.run, keep and not result.config.debug.dry_run
    figures = (run.figures / f"{name}.png" for name in _EXAMPLES)
    return FitResult(
        evaluation=result.evaluation,
        split=result.split,
        run_dir=run.path if keep else None,
        report=run.report if keep and run.report.exists() else None,
        metrics=run.read_metrics(),
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        stopped=result.stopped is not None,
        _example=next((path.read_bytes() for path in figures if path.is_file()), None),
    )


def end_lines(result: TrainResult, *, kept: bool) -> list[str]:
    """Returns the lines that end a fit. kept: the run directory stays."""
    if result.config.debug.dry_run:
        return [result.summary()]
    lines = [result.summary() if kept else result.summary().rpartition(", ")[0]]
    if result.stopped is not None and kept:
        lines.append(f"stopped early; to continue: fit(..., run_dir={str(result.run.path)!r}, resume=True)")
    return lines
