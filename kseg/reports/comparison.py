"""Reads runs to compare: scores, settings that differ, and confidence intervals of score differences."""

import csv
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kseg.config import TrainConfig, better, flatten
from kseg.metrics.bootstrap import mean_iou_difference
from kseg.metrics.evaluation_files import read_matrices
from kseg.runtime.metrics_csv import best_epoch
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError
from kseg.utils.files import read_json

_NO_SETTING = ("run_dir", "resume", "report", "compilation_cache")  # flags that do not affect the model


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run as its directory records it.

    name: the folder's name, or the path if two runs have the same name. metrics: RunDir.read_metrics(). seconds: training time.
    split, class_names, iou [C], pixels [C] (labelled), mean_iou, interval: of the evaluation; None or empty if there was none.
    images: confusion matrices [C, C] of the evaluated images by name, empty if the run has none.
    """

    name: str
    config: TrainConfig
    finished: bool
    metrics: list[dict[str, float]]
    best_epoch: int
    seconds: float | None
    parameters: int | None
    split: str | None
    class_names: tuple[str, ...]
    iou: np.ndarray
    pixels: np.ndarray
    mean_iou: float | None
    interval: tuple[float, float] | None
    images: dict[str, np.ndarray]

    @property
    def evaluated(self) -> bool:
        return self.mean_iou is not None

    @property
    def only_class(self) -> str | None:
        """The class whose IoU the mIoU is, if all others are absent; else None."""
        present = np.flatnonzero(~np.isnan(self.iou))
        return self.class_names[present[0]] if len(present) == 1 else None


def read_runs(paths: Sequence[str]) -> list[ComparedRun]:
    """Reads run directories. Raises KsegError, naming --compare, for a folder that is not one."""
    folders = [Path(path).resolve().name for path in paths]
    return [_read(path, folder if folders.count(folder) == 1 else path) for path, folder in zip(paths, folders, strict=True)]


def _read(path: str, name: str) -> ComparedRun:
    run = RunDir(path)
    try:
        config = run.read_config()
    except KsegError as error:
        raise KsegError(str(error).replace("--run_dir=", "--compare=", 1)) from None
    metrics = run.read_metrics()
    mode = better(config.selection.monitor, config.selection.monitor_mode)
    scores = _read_scores(run)
    names = scores["class_names"]
    images = read_matrices(run.matrices)
    if images is None or not names or images[1].shape[1:] != (len(names),) * 2 or len(set(images[0])) < len(images[0]):
        images = ((), np.zeros((0, 0, 0), "int64"))
    return ComparedRun(
        name=name,
        config=config,
        finished=run.model.exists(),
        metrics=metrics,
        best_epoch=best_epoch(metrics, config.selection.monitor, mode),
        seconds=_seconds(run),
        parameters=_parameters(run),
        images=dict(zip(*images, strict=True)),
        **scores,
    )


def _read_scores(run: RunDir) -> dict[str, Any]:
    """Reads evaluation.json; returns empty values if it is missing or malformed."""
    nothing = {"split": None, "class_names": (), "iou": np.zeros(0), "pixels": np.zeros(0), "mean_iou": None, "interval": None}
    try:
        content = read_json(run.evaluation)
        names, matrix = tuple(map(str, content["class_names"])), np.array(content["confusion_matrix"], "int64")
        iou = np.array([math.nan if value is None else value for value in content["iou"]], "float64")
        mean, interval = content["mean_iou"], content.get("mean_iou_interval") or {}
        if mean is None or matrix.shape != (len(names), len(names)) or iou.shape != (len(names),):
            return nothing
        low, high = interval.get("low"), interval.get("high")
        return {
            "split": str(content["split"]),
            "class_names": names,
            "iou": iou,
            "pixels": matrix.sum(1),
            "mean_iou": float(mean),
            "interval": None if low is None or high is None else (float(low), float(high)),
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return nothing


def _seconds(run: RunDir) -> float | None:
    try:
        with run.timing.open(newline="", encoding="utf-8", errors="replace") as file:
            values = [float(row["seconds"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sum(values) if values else None


def _parameters(run: RunDir) -> int | None:
    """Counts the weights of the run's newest model in its file, without building it."""
    counts: list[int] = []

    def count(name, item):
        if isinstance(item, h5py.Dataset) and name.startswith("layers/"):
            counts.append(int(item.size))

    try:
        with (
            zipfile.ZipFile(run.newest_model()) as archive,
            archive.open("model.weights.h5") as member,
            h5py.File(member, "r") as file,
        ):
            file.visititems(count)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
        return None
    return sum(counts) or None


def not_comparable(first: ComparedRun, other: ComparedRun) -> str | None:
    """Returns the reason why the scores of two runs cannot be compared, or None.

    The number of labelled pixels of each class identifies a split, wherever the data are now.
    """
    if not (first.evaluated and other.evaluated):
        return f"{(first if not first.evaluated else other).name} was not evaluated"
    if first.class_names != other.class_names:
        return f"{other.name} has other classes than {first.name}"
    if not np.array_equal(first.pixels, other.pixels):
        return f"{other.name} was evaluated on other images or labels ({_data(other)}) than {first.name} ({_data(first)})"
    return None


def _data(run: ComparedRun) -> str:
    data = run.config.data
    return f"{data.dataset}{f' {data.data_dir}' if data.data_dir else ''}, {run.split}, {int(run.pixels.sum()):,} labelled pixels"


def difference(first: ComparedRun, other: ComparedRun) -> tuple[float, float] | None:
    """Returns the confidence interval of other's mIoU minus first's (kseg.metrics.bootstrap.mean_iou_difference).

    None unless both runs have confusion matrices of the same images.
    """
    if not_comparable(first, other) or not first.images or set(first.images) != set(other.images):
        return None
    theirs, ours = (np.stack([run.images[name] for name in first.images]) for run in (other, first))
    if any(not np.array_equal(matrices.sum((0, 2)), first.pixels) for matrices in (theirs, ours)):
        return None  # matrices of an earlier evaluation
    low, high = mean_iou_difference(theirs, ours)
    return None if math.isnan(low) else (low, high)


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """Returns the settings that differ between runs: {flag: one value for each run}."""
    settings = [flatten(run.config) for run in runs]
    values = {name: [setting[name] for setting in settings] for name in settings[0] if name not in _NO_SETTING}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}
