"""The files of an evaluation: scores as JSON, scores per image as CSV, and confusion matrices as .npz."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kseg.data.dataset import Dataset
from kseg.metrics.bootstrap import LEVEL, RESAMPLES, mean_iou_interval
from kseg.metrics.boundary_iou import DISTANCE
from kseg.metrics.calibration import BINS
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.scores import nanmean, scores
from kseg.utils.files import atomic_path, write_text

_MAX_MATRICES = 1 << 31
"""Limit in bytes of the matrices that are read. 10,000 images of 150 classes fit."""


def write_evaluation(path: Path, evaluation: Evaluation, split: str, how: Mapping[str, Any] | None = None) -> None:
    """Writes scores and counts as JSON. Undefined scores, such as the IoU of an absent class, are null.

    how: options of the prediction, such as test-time augmentation, written as "prediction" if there are any.
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
    """Writes a CSV with a line per image, in the order of the data set. Undefined scores are empty.

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
    """Writes the confusion matrix of every image, to compare runs: an .npz of `names` [N] and `matrices` int64 [N, C, C]."""
    names = np.array([dataset.name(index) for index in range(len(dataset))], dtype=str)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, names=names, matrices=evaluation.matrices)


def read_matrices(path: Path) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Returns the (names, matrices) of a file of write_matrices, or None if it is missing, damaged or too large."""
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
