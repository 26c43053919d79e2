"""Does the work of Segmenter.evaluate."""

from collections.abc import Sequence
from typing import Any

import keras

from kseg.config import TrainedConfig
from kseg.data.check import check_split
from kseg.data.dataset import Dataset
from kseg.data.loading.worker_pool import worker_pool
from kseg.inference.batches import evaluate_batches, read_batches
from kseg.inference.exported import check_not_exported
from kseg.inference.predictor import Predictor
from kseg.inference.sliding_window import Windows
from kseg.inference.tta import mean_probabilities
from kseg.metrics.evaluation import Evaluation
from kseg.utils.errors import KsegError


def score(
    models: Sequence[keras.Model],
    data: Dataset,
    flags: TrainedConfig,
    *,
    on_bad_sample: str,
    workers: int | None,
    boundary: bool,
    calibration: bool,
) -> Evaluation:
    """Scores models, or their ensemble, on a data set. flags: of read_options. Raises KsegError."""
    dataset, skipped = check_split(data, "data", on_bad_sample)
    print("".join(f"skipped: {line}\n" for line in skipped), end="")
    size = flags.window or flags.image_size
    assert size is not None and flags.batch_size is not None  # of read_options
    averaged = len(models) > 1 or bool(flags.tta) or flags.window is not None
    with worker_pool(workers) as pool:
        predictor = Predictor(
            mean_probabilities(models, size, flags.tta) if averaged else models[0],
            dataset,
            image_size=size,
            batch_size=flags.batch_size,
            pool=pool,
            probabilities=averaged,
            windows=Windows(flags.window, flags.overlap) if flags.window else None,
            confidence=calibration,
        )
        return predictor.evaluate(boundary=boundary)


def score_batches(model: keras.Model, data: Any, class_names: Sequence[str], options: Sequence[str]) -> Evaluation:
    """Scores a model on batches, at their labels' size. options: names of those that are given; raises KsegError for any."""
    check_not_exported(model, "evaluate on batches")
    if options:
        raise KsegError(
            f"{options[0]}: needs single samples, which batches do not give; pass a data set, such as kseg.FolderDataset"
        )
    batches = read_batches(data, class_names, "data")
    height, width = batches.image_size
    print(f"scored at the size of the batches' labels, {height}x{width}", flush=True)
    return evaluate_batches(model, batches, "data")[0]
