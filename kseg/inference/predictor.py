"""Predicts and scores a data set with a model, at the labels' own size."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from kseg.data.dataset import Dataset
from kseg.data.loading.worker_pool import WorkerPool
from kseg.inference.label_maps import Outputs, ResizedLabelMapper, best_tile
from kseg.inference.sliding_window import WindowedLabelMapper, Windows
from kseg.metrics.boundary_iou import boundary_counts
from kseg.metrics.calibration import Calibration
from kseg.metrics.evaluation import Evaluation
from kseg.runtime.hosts import gather, process_count, process_index
from kseg.utils.progress import progress_bar


@dataclass(frozen=True)
class ScoredImage:
    """The result for one image of a data set.

    matrix: confusion matrix, int32 [C, C]. label: uint8 [H, W]. prediction: class ids, uint8 [H, W]. confidence: probability of
    the predicted class, float32 [H, W], or None.
    """

    matrix: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray | None = None


class Predictor:
    """Predicts and scores images at the labels' own size (kseg.inference.label_maps).

    Under data_parallel (kseg.runtime.distribution) each device of this process predicts its share of a batch; build the model and
    the Predictor, and call it, in that scope. If memory runs out, the batch size is halved.

    Args:
        model: images [B, H, W, 3] to logits [B, H, W, C], or to probabilities (kseg.inference.tta).
        image_size: (height, width) of the network's input.
        batch_size: images, or windows, per step.
        pool: processes that load the images; None: threads.
        probabilities: the model returns probabilities.
        windows: predict images at their own size, window by window; `model` returns probabilities for one window. One device.
        confidence: keep the probability of each predicted class, for calibration.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Dataset,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        pool: WorkerPool | None = None,
        probabilities: bool = False,
        windows: Windows | None = None,
        confidence: bool = False,
    ):
        self._dataset, self._pool = dataset, pool
        self._image_size = None if windows else image_size
        self._batch_size = 1 if windows else batch_size
        sizes = np.array([dataset.size(i) for i in range(len(dataset))])
        self._area = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
        self._outputs = Outputs(confidence=confidence, matrix=True)
        self._label_maps = (
            WindowedLabelMapper(model, batch_size, windows)
            if windows
            else ResizedLabelMapper(model, batch_size, probabilities=probabilities, tile=best_tile(*self._area))
        )

    def __call__(self, indices: Iterable[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (confusion matrix int32 [C, C], prediction uint8 [H, W]) per image. Raises KsegError if one cannot be read."""
        for scored in self.predict(indices):
            yield scored.matrix, scored.prediction

    def predict(self, indices: Iterable[int]) -> Iterator[ScoredImage]:
        """Yields the prediction of each image. Raises KsegError if one cannot be read."""
        from kseg.data.loading.pipeline import full_size_batches, sample_errors  # imports TensorFlow, which models do not need

        remaining = list(indices)
        batches = full_size_batches(
            self._dataset,
            remaining,
            area=self._area,
            image_size=self._image_size,
            batch_size=self._batch_size,
            pool=self._pool,
        )
        places = iter(remaining)
        with sample_errors():
            for images, labels, _ in batches.as_numpy_iterator():
                sizes = [self._dataset.size(index) for index in itertools.islice(places, self._batch_size)]
                if self._image_size is None:
                    images = _cut(images, sizes)
                labels = _cut(labels, sizes)
                found = self._label_maps(images[: len(sizes)], sizes, self._outputs, labels)
                for label, label_map in zip(labels, found, strict=True):
                    assert label_map.matrix is not None  # self._outputs asks for it
                    yield ScoredImage(label_map.matrix, label, label_map.labels, label_map.confidence)

    def evaluate(self, progress: bool = True, boundary: bool = False) -> Evaluation:
        """Scores every image of the data set. Each process of a run scores a share; all return the scores of the whole.

        boundary: also count for the boundary IoU, on the host. This and calibration cover only this process's images.
        """
        index, count, total = process_index(), process_count(), len(self._dataset)
        images = range(index, total, count)
        classes = self._label_maps.num_classes
        matrices = np.zeros((-(-total // count), classes, classes), "int32")  # some shares have one image fewer
        boundaries = np.zeros((classes, 2), "int64") if boundary else None
        calibration = None
        with progress_bar(len(images), "evaluate", disable=index > 0 or not progress) as bar:
            for prediction, row in zip(self.predict(images), matrices, strict=False):
                row[:] = prediction.matrix
                if boundaries is not None:
                    boundaries += boundary_counts(prediction.label, prediction.prediction, classes)
                if prediction.confidence is not None:
                    calibration = calibration or Calibration()
                    counted = prediction.label != self._dataset.ignore_index
                    right = prediction.prediction == prediction.label
                    calibration.add(prediction.confidence[counted], right[counted])
                bar.update()
        shares = gather(matrices)  # [processes, rows, C, C]; image i is row i // processes of process i % processes
        matrices = shares.swapaxes(0, 1).reshape(-1, classes, classes)[:total].astype("int64")
        return Evaluation(self._dataset.class_names, matrices, boundaries, calibration)


def _cut(padded: np.ndarray, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Returns images or label maps [B, H, W, ...] without their padding; those without a size are padding."""
    return [values[:height, :width] for values, (height, width) in zip(padded, sizes, strict=False)]
