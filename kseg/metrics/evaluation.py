"""What a model did on a split: its scores, as a table, as JSON and image by image as CSV."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kseg.data.dataset import Dataset
from kseg.metrics.boundary_iou import DISTANCE
from kseg.metrics.calibration import BINS, Calibration
from kseg.metrics.confusion_matrix import LEVEL, RESAMPLES, Scores, mean_iou_interval, nanmean, scores
from kseg.utils.files import atomic_path, write_text

_MAX_MATRICES = 1 << 31
"""Bytes of matrices that are read: those of 10,000 images of 150 classes fit."""


@dataclass(frozen=True)
class Evaluation:
    """What a model did on a split.

    class_names: C names. matrices: int64 [N, C, C], one confusion matrix (true, predicted) per image. boundaries: int64 [C, 2],
    boundary_counts of all images, and calibration, if they were asked for.
    """

    class_names: tuple[str, ...]
    matrices: np.ndarray
    boundaries: np.ndarray | None = None
    calibration: Calibration | None = None

    @property
    def confusion_matrix(self) -> np.ndarray:
        """The whole split's counts, int64 [C, C]."""
        return self.matrices.sum(0)

    @property
    def scores(self) -> Scores:
        """The split's scores, from one confusion matrix."""
        return scores(self.confusion_matrix)

    @property
    def boundary_iou(self) -> np.ndarray | None:
        """float64 [C], nan for a class without a boundary; None if it was not asked for."""
        if self.boundaries is None:
            return None
        with np.errstate(invalid="ignore"):
            return self.boundaries[:, 0] / self.boundaries[:, 1]

    def ranking(self) -> np.ndarray:
        """Indices of the images with any counted pixel, from the highest mean IoU to the lowest."""
        image_scores = np.array([scores(matrix).mean_iou for matrix in self.matrices])
        order = np.argsort(-image_scores, kind="stable")
        return order[~np.isnan(image_scores[order])]

    def summary(self, split: str) -> str:
        """Returns e.g. "mIoU 0.4321 (full val set, 101 images, 11 classes; 95% interval 0.4012 to 0.4588)"."""
        scores, names = self.scores, self.class_names
        absent = int(np.isnan(scores.iou).sum())
        left_out = f", {absent} of them absent and left out" if absent else ""
        low, high = mean_iou_interval(self.matrices)
        interval = "" if np.isnan(low) else f"; {LEVEL:.0%} interval {low:.4f} to {high:.4f}"
        count = f"{len(self.matrices)} images, {len(names)} classes{left_out}"
        return f"mIoU {scores.mean_iou:.4f} (full {split} set, {count}{interval})"

    def table(self) -> str:
        """Returns the classes' scores and share of labelled pixels, one class a line, then what there is of the whole."""
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


def write_evaluation(path: Path, evaluation: Evaluation, split: str, how: Mapping[str, Any] | None = None) -> None:
    """Writes scores and counts as JSON; what is not defined, such as the IoU of an absent class, is null.

    how: how it was predicted, where not plainly, to be told as "prediction".
    """
    scores = evaluation.scores
    low, high = map(_known, mean_iou_interval(evaluation.matrices))
    content: dict[str, Any] = {
        "split": split,
        "images": len(evaluation.matrices),
        "mean_iou": _known(scores.mean_iou),
        "mean_iou_interval": {"low": low, "high": high, "level": LEVEL, "resamples": RESAMPLES},
        "mean_dice": _known(scores.mean_dice),
        "mean_precision": _known(scores.mean_precision),
        "mean_class_accuracy": _known(scores.mean_class_accuracy),
        "frequency_weighted_iou": _known(scores.frequency_weighted_iou),
        "pixel_accuracy": _known(scores.pixel_accuracy),
        "constant_mean_iou": _known(scores.constant_mean_iou),
        "class_names": list(evaluation.class_names),
        "iou": [_known(value) for value in scores.iou],
        "dice": [_known(value) for value in scores.dice],
        "precision": [_known(value) for value in scores.precision],
        "recall": [_known(value) for value in scores.recall],
        "confusion_matrix": evaluation.confusion_matrix.tolist(),
    }
    if (boundary := evaluation.boundary_iou) is not None:
        content["boundary"] = {
            "distance": DISTANCE,
            "mean_iou": _known(nanmean(boundary)),
            "iou": [_known(value) for value in boundary],
        }
    if (calibration := evaluation.calibration) is not None:
        content["calibration"] = {
            "bins": BINS,
            "expected_error": _known(calibration.error()),
            "pixels": calibration.pixels.tolist(),
            "right": calibration.right.tolist(),
            "confidence": calibration.confidence.tolist(),
        }
    if how:
        content["prediction"] = dict(how)
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_per_image(path: Path, evaluation: Evaluation, dataset: Dataset) -> None:
    """Writes a CSV with a line an image, in the data set's order; what is not defined is empty.

    Columns: name, height, width, labelled_pixels, mean_iou, pixel_accuracy, and iou:CLASS for each class.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    heads = ["name", "height", "width", "labelled_pixels", "mean_iou", "pixel_accuracy"]
    writer.writerow(heads + [f"iou:{name}" for name in evaluation.class_names])
    for index, matrix in enumerate(evaluation.matrices):
        image = scores(matrix)
        values = ["" if np.isnan(v) else float(v) for v in (image.mean_iou, image.pixel_accuracy, *image.iou)]
        writer.writerow([dataset.name(index), *dataset.size(index), int(matrix.sum()), *values])
    with atomic_path(path) as temporary:
        temporary.write_text(file.getvalue(), encoding="utf-8", newline="")


def write_matrices(path: Path, evaluation: Evaluation, dataset: Dataset) -> None:
    """Writes every image's confusion matrix, for comparing runs: an .npz of `names` [N] and `matrices` int64 [N, C, C]."""
    names = np.array([dataset.name(index) for index in range(len(dataset))], dtype=str)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, names=names, matrices=evaluation.matrices)


def read_matrices(path: Path) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Returns (names, matrices) as write_matrices wrote them; None if there is no such file, or it is damaged or too large."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_MATRICES:
                return None
        with np.load(path, allow_pickle=False) as content:
            names, matrices = content["names"], content["matrices"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if names.ndim != 1 or names.dtype.kind != "U" or matrices.dtype.kind != "i":
        return None
    if matrices.ndim != 3 or len(matrices) != len(names) or matrices.shape[1] != matrices.shape[2]:
        return None
    return tuple(names.tolist()), matrices


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
