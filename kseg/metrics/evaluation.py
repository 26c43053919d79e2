"""The result of evaluating a model on a split: counts per image, scores, and both as text."""

from dataclasses import dataclass

import numpy as np

from kseg.metrics.bootstrap import LEVEL, mean_iou_interval
from kseg.metrics.calibration import Calibration
from kseg.metrics.evaluation_html import evaluation_html
from kseg.metrics.scores import Scores, nanmean, scores


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model on a split.

    class_names: C names. matrices: int64 [N, C, C], one confusion matrix (true, predicted) per image. boundaries: int64 [C, 2],
    boundary_counts summed over the images, or None. calibration: over all pixels, or None.
    """

    class_names: tuple[str, ...]
    matrices: np.ndarray
    boundaries: np.ndarray | None = None
    calibration: Calibration | None = None

    @property
    def confusion_matrix(self) -> np.ndarray:
        """The counts of the whole split, int64 [C, C]."""
        return self.matrices.sum(0)

    @property
    def scores(self) -> Scores:
        """The scores of the split, from one confusion matrix."""
        return scores(self.confusion_matrix)

    @property
    def mean_iou(self) -> float:
        """The mean IoU over the classes that occur in labels or predictions."""
        return self.scores.mean_iou

    @property
    def iou(self) -> dict[str, float]:
        """The IoU of each class by name; nan for a class that is in neither labels nor predictions."""
        return dict(zip(self.class_names, self.scores.iou.tolist(), strict=True))

    @property
    def boundary_iou(self) -> np.ndarray | None:
        """float64 [C], nan for a class without a boundary; None if boundaries were not counted."""
        if self.boundaries is None:
            return None
        with np.errstate(invalid="ignore"):
            return self.boundaries[:, 0] / self.boundaries[:, 1]

    def ranking(self) -> np.ndarray:
        """Returns the indices of the images with a counted pixel, from the highest mean IoU to the lowest."""
        image_scores = np.array([scores(matrix).mean_iou for matrix in self.matrices])
        order = np.argsort(-image_scores, kind="stable")
        return order[~np.isnan(image_scores[order])]

    def summary(self, split: str) -> str:
        """Returns e.g. "mIoU 0.4321 (full val set, 101 images, 11 classes; 95% interval 0.4012 to 0.4588)".

        Says so if some classes are absent, and if only one is not: there is no mean of one class.
        """
        scores, names = self.scores, self.class_names
        present = np.flatnonzero(~np.isnan(scores.iou))
        absent = len(names) - len(present)
        left_out = f", {absent} of them absent and left out" if absent else ""
        if len(present) == 1:
            left_out += f": no mean, but the IoU of {names[present[0]]!r} alone"
        low, high = mean_iou_interval(self.matrices)
        interval = "" if np.isnan(low) else f"; {LEVEL:.0%} interval {low:.4f} to {high:.4f}"
        count = f"{len(self.matrices)} images, {len(names)} classes{left_out}"
        return f"mIoU {scores.mean_iou:.4f} (full {split} set, {count}{interval})"

    def table(self) -> str:
        """Returns a text table: each class's scores and share of labelled pixels, then the scores of the whole split."""
        scores = self.scores
        share = scores.pixels / max(scores.pixels.sum(), 1)
        columns = {"IoU": scores.iou, "precision": scores.precision, "recall": scores.recall, "Dice": scores.dice}
        if (boundary := self.boundary_iou) is not None:
            columns["boundary IoU"] = boundary
        width = max(map(len, self.class_names))
        widths = [max(8, len(title) + 2) for title in columns]
        head = "".join(f"{title:>{cell}}" for title, cell in zip(columns, widths, strict=True))
        lines = [f"{'class':<{width}}{head}  share of pixels"]
        for index, name in enumerate(self.class_names):
            absent = np.isnan(scores.iou[index])
            values = ["absent" if absent else "-" if np.isnan(v[index]) else f"{v[index]:.4f}" for v in columns.values()]
            cells = "".join(f"{value:>{cell}}" for value, cell in zip(values, widths, strict=True))
            lines.append(f"{name:<{width}}{cells}{share[index]:17.2%}")
        lines.append(
            f"pixel accuracy {scores.pixel_accuracy:.4f}, mean class accuracy {scores.mean_class_accuracy:.4f}, "
            f"mean precision {scores.mean_precision:.4f}, mean Dice {scores.mean_dice:.4f}, "
            f"frequency-weighted IoU {scores.frequency_weighted_iou:.4f}"
        )
        if boundary is not None:
            lines.append(f"mean boundary IoU {nanmean(boundary):.4f}")
        if self.calibration is not None:
            lines.append(f"expected calibration error {self.calibration.error():.4f}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Shows the scores in a notebook."""
        return evaluation_html(self)
