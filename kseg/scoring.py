"""Scores of a model on a whole split, at the labels' own size."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from kseg.data.dataset import Dataset
from kseg.data.workers import WorkerPool
from kseg.distribution import on_each_device, shard
from kseg.hosts import gather, rank
from kseg.metrics import Scores, confusion_matrices, scores
from kseg.models.layers import resize_bilinear
from kseg.progress import progress_bar
from kseg.run import write_text


@dataclass(frozen=True)
class Evaluation:
    """What a model did on a split.

    matrices: int64 [N, C, C], one confusion matrix (true, predicted) per image. class_names: C names.
    """

    class_names: tuple[str, ...]
    matrices: np.ndarray

    @property
    def confusion_matrix(self) -> np.ndarray:
        """The whole split's counts, int64 [C, C]."""
        return self.matrices.sum(0)

    @property
    def scores(self) -> Scores:
        """The split's scores, from one confusion matrix."""
        return scores(self.confusion_matrix)

    def ranking(self) -> np.ndarray:
        """Indices of the images with any counted pixel, from the highest mean IoU to the lowest."""
        image_scores = np.array([scores(matrix).mean_iou for matrix in self.matrices])
        order = np.argsort(-image_scores, kind="stable")
        return order[~np.isnan(image_scores[order])]

    def summary(self, split: str) -> str:
        """Returns e.g. "mIoU 0.4321 (full val set, 101 images, 11 classes)"."""
        scores, names = self.scores, self.class_names
        absent = int(np.isnan(scores.iou).sum())
        left_out = f", {absent} of them absent and left out" if absent else ""
        return f"mIoU {scores.mean_iou:.4f} (full {split} set, {len(self.matrices)} images, {len(names)} classes{left_out})"

    def table(self) -> str:
        """Returns the classes' IoU, Dice and share of labelled pixels, one a line."""
        scores = self.scores
        width = max(map(len, self.class_names))
        lines = [f"{'class':<{width}}     IoU    Dice  share of pixels"]
        share = scores.pixels / max(scores.pixels.sum(), 1)
        for name, *values in zip(self.class_names, scores.iou, scores.dice, share, strict=True):
            cells = "  absent  absent" if np.isnan(values[0]) else f"{values[0]:8.4f}{values[1]:8.4f}"
            lines.append(f"{name:<{width}}{cells}{values[2]:16.2%}")
        lines.append(f"pixel accuracy {scores.pixel_accuracy:.4f}, mean Dice {scores.mean_dice:.4f}")
        return "\n".join(lines)


class _ScoreAtLabelSize(keras.layers.Layer):
    """(logits [B, h, w, C], label [B, H, W], size [B, 2]) -> (confusion matrices [B, C, C], predictions [B, H, W]), int32.

    The logits of each image are resized to its label's own size (bilinear, half-pixel centres), one image at a time, so
    that only one picture of full-size logits lives.
    """

    def call(self, inputs):
        return on_each_device(self._score)(*inputs)

    @staticmethod
    def _score(logits, label, size):
        area = label.shape[1:3]

        def predict(image):
            logits, size = image
            logits = resize_bilinear(logits[None], (size[0], size[1]), align_corners=False, padded_size=area)
            return ops.cast(ops.argmax(logits[0], axis=-1), "int32")

        predictions = ops.map(predict, (logits, size))
        return confusion_matrices(label, predictions, logits.shape[-1]), predictions

    def compute_output_shape(self, input_shape):
        logits, label, _ = input_shape
        return (logits[0], logits[-1], logits[-1]), label

    def compute_output_spec(self, inputs):
        matrices, predictions = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(matrices, "int32"), keras.KerasTensor(predictions, "int32")


class Predictor:
    """Predicts label maps at the labels' own size: images are resized to image_size for the network, its logits to each
    label's size.

    Jitted by Keras, and compiled once for a data set: labels are padded to the largest. pool: processes that load the images;
    None: threads. Where a distribution is in force (kseg.distribution.data_parallel), each of this process's devices predicts its
    part of a batch; build the Predictor, and its model, and call it in the same scope.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: Dataset,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        pool: WorkerPool | None = None,
    ):
        self._pool = pool
        self._dataset, self._image_size, self._batch_size = dataset, image_size, batch_size
        sizes = np.array([dataset.size(i) for i in range(len(dataset))])
        self._area = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
        label = keras.Input(self._area, dtype="int32", name="label")
        size = keras.Input((2,), dtype="int32", name="size")
        outputs = _ScoreAtLabelSize(dtype="float32")([model.output, label, size])
        self._model = keras.Model([model.input, label, size], outputs)

    def __call__(self, indices: Iterable[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (confusion matrix int32 [C, C], prediction int32 [H, W]) of each image in turn.

        Raises KsegError if an image cannot be read.
        """
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
                matrices, predictions = self._model.predict_on_batch(shard(batch))
                # The fill-up images at the end have no index to pair with.
                for matrix, prediction, index in zip(np.asarray(matrices), np.asarray(predictions), remaining, strict=False):
                    height, width = self._dataset.size(index)
                    yield matrix, prediction[:height, :width]

    def evaluate(self, progress: bool = True) -> Evaluation:
        """Scores every image of the data set. The processes of a run each score a share of them; all return the whole."""
        (index, count), total = rank(), len(self._dataset)
        images = range(index, total, count)
        classes = self._model.outputs[0].shape[-1]
        matrices = np.zeros((-(-total // count), classes, classes), "int32")  # the last shares may lack an image
        with progress_bar(len(images), "evaluate", disable=index > 0 or not progress) as bar:
            for (matrix, _), row in zip(self(images), matrices, strict=False):
                row[:] = matrix
                bar.update()
        shares = gather(matrices)  # [processes, rows, C, C]; image i is row i // processes of process i % processes
        return Evaluation(self._dataset.class_names, shares.swapaxes(0, 1).reshape(-1, classes, classes)[:total].astype("int64"))


def write_evaluation(path: Path, evaluation: Evaluation, split: str) -> None:
    """Writes scores and counts as JSON; what is not defined, such as the IoU of an absent class, is null."""
    scores = evaluation.scores

    def known(value):
        return None if np.isnan(value) else float(value)

    content = {
        "split": split,
        "images": len(evaluation.matrices),
        "mean_iou": known(scores.mean_iou),
        "mean_dice": known(scores.mean_dice),
        "pixel_accuracy": known(scores.pixel_accuracy),
        "constant_mean_iou": known(scores.constant_mean_iou),
        "class_names": list(evaluation.class_names),
        "iou": [known(value) for value in scores.iou],
        "dice": [known(value) for value in scores.dice],
        "confusion_matrix": evaluation.confusion_matrix.tolist(),
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
