"""Predicts and scores a model on a whole split, at the labels' own size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from kseg.boundary_iou import boundary_counts
from kseg.calibration import Calibration
from kseg.data.dataset import Dataset
from kseg.data.workers import WorkerPool
from kseg.distribution import on_each_device, shard
from kseg.evaluation import Evaluation
from kseg.hosts import gather, rank
from kseg.metrics import confusion_matrices
from kseg.models.layers import resize_bilinear
from kseg.progress import progress_bar
from kseg.windows import SlidingWindows


@dataclass(frozen=True)
class Windows:
    """Predict every image at its own size, by windows of `size` that overlap by at least this part of their sides."""

    size: tuple[int, int]
    overlap: float = 0.25


class _ScoreAtLabelSize(keras.layers.Layer):
    """(scores [B, h, w, C], label [B, H, W], size [B, 2]) -> (confusion matrices [B, C, C], predictions [B, H, W]), int32; with
    `confidence` also the probability of each predicted class, float32 [B, H, W].

    The scores of each image are resized to its label's own size (bilinear, half-pixel centres), one image at a time, so that
    only one picture of full-size scores lives; with full_size they have it already. They are logits, or with
    `probabilities` what is in proportion to those.
    """

    def __init__(self, *, full_size: bool, probabilities: bool, confidence: bool):
        super().__init__(dtype="float32")
        self.full_size, self.probabilities, self.confidence = full_size, probabilities, confidence

    def call(self, inputs):
        return on_each_device(self._score)(*inputs)

    def _score(self, scores, label, size):
        area = label.shape[1:3]

        def predict(image):
            scores, size = image
            if not self.full_size:
                scores = resize_bilinear(scores[None], (size[0], size[1]), align_corners=False, padded_size=area)[0]
            prediction = ops.cast(ops.argmax(scores, axis=-1), "int32")
            if not self.confidence:
                return prediction
            if self.probabilities:  # beyond the windows of an image all scores are 0
                return prediction, ops.divide_no_nan(ops.max(scores, axis=-1), ops.sum(scores, axis=-1))
            return prediction, ops.max(ops.softmax(scores), axis=-1)

        found = ops.map(predict, (scores, size))
        predictions, *confidence = found if self.confidence else (found,)
        return confusion_matrices(label, predictions, scores.shape[-1]), predictions, *confidence

    def compute_output_spec(self, inputs):
        scores, label, _ = (x.shape for x in inputs)
        matrices = keras.KerasTensor((scores[0], scores[-1], scores[-1]), "int32")
        confidence = [keras.KerasTensor(label, "float32")] if self.confidence else []
        return matrices, keras.KerasTensor(label, "int32"), *confidence


@dataclass(frozen=True)
class Predicted:
    """One image: its confusion matrix int32 [C, C], label uint8 [H, W], prediction int32 [H, W], and the probability of each
    predicted class, float32 [H, W], if it was asked for.
    """

    matrix: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray | None


class Predictor:
    """Predicts label maps at the labels' own size: images are resized to image_size for the network, its logits to each
    label's size.

    Jitted by Keras, and compiled once for a data set: labels are padded to the largest. pool: processes that load the images;
    None: threads. Where a distribution is in force (kseg.distribution.data_parallel), each of this process's devices predicts its
    part of a batch; build the Predictor, and its model, and call it in the same scope.

    probabilities: the model returns those (kseg.averaging) and not logits. windows: images are not resized but predicted window
    by window, batch_size of them at a time, by a model of probabilities for one window's size; one device only. confidence: the
    probabilities of the predicted classes are kept, for calibration.
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
        self._pool = pool
        self._dataset, self._image_size, self._batch_size = dataset, None if windows else image_size, batch_size
        sizes = np.array([dataset.size(i) for i in range(len(dataset))])
        self._area = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
        size = keras.Input((2,), dtype="int32", name="size")
        image, scores = model.input, model.output
        if windows:
            self._area = (max(self._area[0], windows.size[0]), max(self._area[1], windows.size[1]))
            image = keras.Input((*self._area, image.shape[-1]), batch_size=1, dtype="float32", name="image")
            size = keras.Input((2,), batch_size=1, dtype="int32", name="size")
            scores = SlidingWindows(model, windows.size, windows.overlap, batch_size)([image, size])
            self._batch_size = 1
        label = keras.Input(self._area, batch_size=1 if windows else None, dtype="int32", name="label")
        score = _ScoreAtLabelSize(full_size=windows is not None, probabilities=probabilities, confidence=confidence)
        self._model = keras.Model([image, label, size], score([scores, label, size]))

    def __call__(self, indices: Iterable[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (confusion matrix int32 [C, C], prediction int32 [H, W]) of each image in turn.

        Raises KsegError if an image cannot be read.
        """
        for found in self.predict(indices):
            yield found.matrix, found.prediction

    def predict(self, indices: Iterable[int]) -> Iterator[Predicted]:
        """Yields what there is of each image in turn. Raises KsegError if an image cannot be read."""
        from kseg.data.pipeline import full_size_batches, sample_errors  # the pipeline needs TensorFlow, models do not

        indices = list(indices)
        batches = full_size_batches(
            self._dataset,
            indices,
            area=self._area,
            image_size=self._image_size,
            batch_size=self._batch_size,
            pool=self._pool,
        )
        remaining = iter(indices)
        with sample_errors():
            for batch in batches.as_numpy_iterator():
                found = [np.asarray(values) for values in self._model.predict_on_batch(shard(batch))]
                # The fill-up images at the end have no index to pair with.
                for label, (matrix, *maps), index in zip(batch[1], zip(*found, strict=True), remaining, strict=False):
                    height, width = self._dataset.size(index)
                    label, prediction, *confidence = (values[:height, :width] for values in (label, *maps))
                    yield Predicted(matrix, label, prediction, confidence[0] if confidence else None)

    def evaluate(self, progress: bool = True, boundary: bool = False) -> Evaluation:
        """Scores every image of the data set. The processes of a run each score a share of them; all return the whole.

        boundary: also counts for the boundary IoU, on the host; this and calibration are of this process's images alone.
        """
        (index, count), total = rank(), len(self._dataset)
        images = range(index, total, count)
        classes = self._model.outputs[0].shape[-1]
        matrices = np.zeros((-(-total // count), classes, classes), "int32")  # the last shares may lack an image
        boundaries = np.zeros((classes, 2), "int64") if boundary else None
        calibration = None
        with progress_bar(len(images), "evaluate", disable=index > 0 or not progress) as bar:
            for found, row in zip(self.predict(images), matrices, strict=False):
                row[:] = found.matrix
                if boundaries is not None:
                    boundaries += boundary_counts(found.label, found.prediction, classes)
                if found.confidence is not None:
                    calibration = calibration or Calibration()
                    counted = found.label != self._dataset.ignore_index
                    calibration.add(found.confidence[counted], (found.prediction == found.label)[counted])
                bar.update()
        shares = gather(matrices)  # [processes, rows, C, C]; image i is row i // processes of process i % processes
        matrices = shares.swapaxes(0, 1).reshape(-1, classes, classes)[:total].astype("int64")
        return Evaluation(self._dataset.class_names, matrices, boundaries, calibration)
