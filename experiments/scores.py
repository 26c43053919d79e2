"""Scores a finished run for the table: python -m experiments.scores RUN_DIR OUT.json.

The batch-averaged mIoU is the number that the reference experiments used at first. It is computed on the same predictions as the
mIoU, to show the difference; kseg does not use it.
"""

import csv
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import write_numbers
from kseg.config import TrainedConfig
from kseg.metrics.scores import scores


def batch_mean_iou(matrices: np.ndarray, batch_size: int) -> float:
    """Returns the mean of the mIoUs of consecutive batches of images.

    matrices: int64 [N, C, C], one confusion matrix an image. A class that a batch lacks is left out of that batch's mean; a batch
    without a counted pixel is left out.
    """
    batches = [matrices[start : start + batch_size].sum(0) for start in range(0, len(matrices), batch_size)]
    return float(np.nanmean([scores(matrix).mean_iou for matrix in batches]))


def measure(run_dir: str) -> dict[str, Any]:
    """Returns the scores of a run's model, evaluated again, and figures of its metrics.csv and timing.csv."""
    from kseg.data.loading.worker_pool import worker_pool
    from kseg.inference.load import open_trained
    from kseg.training.flops import count_flops

    with worker_pool(None) as pool:
        trained = open_trained(TrainedConfig(model=run_dir), pool)
        evaluation = trained.predictor.evaluate(progress=False)
    assert trained.run is not None  # the model is a run's
    epochs, timing = read_rows(trained.run.metrics), read_rows(trained.run.timing)
    batch_size = trained.config.batch_size
    return {
        "mean_iou": evaluation.scores.mean_iou,
        "batch_mean_iou": batch_mean_iou(evaluation.matrices, batch_size),
        "constant_mean_iou": evaluation.scores.constant_mean_iou,
        "val_images": len(evaluation.matrices),
        "batch_size": batch_size,
        "image_size": trained.config.image_size,
        "epochs": len(epochs),
        "epoch_seconds": median(float(epoch["seconds"]) for epoch in timing),
        "val_mean_ious": [float(epoch["val_mean_iou"]) for epoch in epochs],
        "parameters": trained.model.count_params(),
        "flops": count_flops(trained.model, trained.config.image_size),
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    write_numbers(Path(sys.argv[2]), measure(sys.argv[1]))
