"""Predicts and scores a data set with a model, at the labels' own size."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data.augmentation.augmenter import Augmenter
from kseg.data.dataset import Dataset
from kseg.data.loading.samples import FullSizeSamples, chunk_arrays, make_chunk
from kseg.data.loading.worker_pool import WorkerPool
from kseg.data.sources.image_files import ImageArrays
from kseg.inference.sliding_window import SlidingWindows
from kseg.metrics.boundary_iou import boundary_counts
from kseg.metrics.calibration import Calibration
from kseg.metrics.confusion_matrix import confusion_matrices
from kseg.metrics.evaluation import Evaluation
from kseg.models.ops.resize import resize_bilinear
from kseg.runtime.distribution import device_count, on_each_device, shard
from kseg.runtime.hosts import gather, process_count, process_index
from kseg.runtime.out_of_memory import is_out_of_memory
from kseg.utils.errors import KsegError
from kseg.utils.progress import progress_bar


@dataclass(frozen=True)
class Windows:
    """Predict images at their own size, by windows of `size` that share at least `overlap` of a side with the next."""

    size: tuple[int, int]
    overlap: float = 0.25


class _ScoreAtLabelSize(keras.layers.Layer):
    """Maps (scores [B, h, w, C], label [B, H, W], size [B, 2]) to (confusion matrices [B, C, C], predictions [B, H, W]), int32.

    confidence: also returns the probability of each predicted class, float32 [B, H, W]. keep: also those of all classes,
    float16 [B, H, W, C]. probabilities: scores are proportional to probabilities, not logits. Scores are resized to the label's
    own size (bilinear, half-pixel centres), one image at a time to save memory; full_size: they have it already.
    """

    def __init__(self, *, full_size: bool, probabilities: bool, confidence: bool, keep: bool):
        super().__init__(dtype="float32")
        self.full_size, self.probabilities, self.confidence, self.keep = full_size, probabilities, confidence, keep

    def call(self, inputs):
        return on_each_device(self._score)(*inputs)

    def _score(self, scores, label, size):
        area = label.shape[1:3]

        def predict(image):
            scores, size = image
            if not self.full_size:
                scores = resize_bilinear(scores[None], (size[0], size[1]), align_corners=False, padded_size=area)[0]
            outputs = [ops.cast(ops.argmax(scores, axis=-1), "int32")]
            if self.confidence:
                if self.probabilities:  # all 0 beyond the image's windows
                    outputs.append(ops.divide_no_nan(ops.max(scores, axis=-1), ops.sum(scores, axis=-1)))
                else:
                    outputs.append(ops.max(ops.softmax(scores), axis=-1))
            if self.keep:
                total = ops.sum(scores, axis=-1, keepdims=True)
                every = ops.divide_no_nan(scores, total) if self.probabilities else ops.softmax(scores)
                outputs.append(ops.cast(every, "float16"))
            return tuple(outputs) if len(outputs) > 1 else outputs[0]

        outputs = ops.map(predict, (scores, size))
        predictions, *others = outputs if self.confidence or self.keep else (outputs,)
        return confusion_matrices(label, predictions, scores.shape[-1]), predictions, *others

    def compute_output_spec(self, inputs):
        scores, label, _ = (x.shape for x in inputs)
        matrices = keras.KerasTensor((scores[0], scores[-1], scores[-1]), "int32")
        confidence = [keras.KerasTensor(label, "float32")] if self.confidence else []
        every = [keras.KerasTensor((*label, scores[-1]), "float16")] if self.keep else []
        return matrices, keras.KerasTensor(label, "int32"), *confidence, *every


@dataclass(frozen=True)
class Prediction:
    """The result for one image.

    matrix: confusion matrix, int32 [C, C]. label: uint8 [H, W]. prediction: class ids, int32 [H, W]. confidence: probability of
    the predicted class, float32 [H, W]. probabilities: of all classes, float16 [H, W, C]. The last two are None unless asked for.
    """

    matrix: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray | None = None
    probabilities: np.ndarray | None = None


class Predictor:
    """Predicts label maps at the labels' own size. Images are resized to image_size for the network, its logits to the label.

    The step is jitted and compiled once per data set: labels are padded to the largest. Under data_parallel
    (kseg.runtime.distribution) each device of this process predicts its share of a batch; build the model and the Predictor, and
    call it, in that scope. If memory runs out, the batch size is halved, with a line on stderr, and the work continues.

    Args:
        model: images [B, H, W, 3] to logits [B, H, W, C], or to probabilities (kseg.inference.tta).
        image_size: (height, width) of the network's input.
        batch_size: images, or windows, per step.
        pool: processes that load the images; None: threads.
        probabilities: the model returns probabilities.
        windows: predict images at their own size, window by window; `model` returns probabilities for one window. One device.
        confidence: keep the probability of each predicted class, for calibration.
        keep_probabilities: keep the probabilities of all classes.
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
        keep_probabilities: bool = False,
    ):
        self._pool = pool
        self._dataset, self._image_size, self._windows = dataset, None if windows else image_size, windows
        self._network, self._step_size = model, batch_size
        sizes = np.array([dataset.size(i) for i in range(len(dataset))])
        self._area = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
        if windows:
            self._area = (max(self._area[0], windows.size[0]), max(self._area[1], windows.size[1]))
        self._kept = {"confidence": confidence, "probabilities": keep_probabilities}
        self._score = _ScoreAtLabelSize(
            full_size=windows is not None, probabilities=probabilities, confidence=confidence, keep=keep_probabilities
        )
        self._model, self._step = self._build()

    def _build(self) -> tuple[keras.Model, Callable[[Any], Any]]:
        size = keras.Input((2,), dtype="int32", name="size")
        image, scores = self._network.input, self._network.output
        if self._windows:
            image = keras.Input((*self._area, image.shape[-1]), batch_size=1, dtype="float32", name="image")
            size = keras.Input((2,), batch_size=1, dtype="int32", name="size")
            scores = SlidingWindows(self._network, self._windows.size, self._windows.overlap, self._step_size)([image, size])
        label = keras.Input(self._area, batch_size=1 if self._windows else None, dtype="int32", name="label")
        model = keras.Model([image, label, size], self._score([scores, label, size]))
        return model, _predict_step(model)

    @property
    def _batch_size(self) -> int:
        return 1 if self._windows else self._step_size

    def __call__(self, indices: Iterable[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (confusion matrix int32 [C, C], prediction int32 [H, W]) per image. Raises KsegError if one cannot be read."""
        for prediction in self.predict(indices):
            yield prediction.matrix, prediction.prediction

    def predict(self, indices: Iterable[int]) -> Iterator[Prediction]:
        """Yields the prediction of each image. Raises KsegError if one cannot be read."""
        remaining = list(indices)
        while remaining:
            done = 0
            try:
                for prediction in self._predict(remaining):
                    done += 1
                    yield prediction
                return
            except Exception as error:
                self._halve(error)
            remaining = remaining[done:]

    def predict_arrays(self, images: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """Yields the predictions of a stream of images, which is read one batch at a time.

        images: uint8 [H, W, 3], not larger than the largest of the data set.
        """
        stream = iter(images)
        pending: list[np.ndarray] = []
        while pending := pending or list(itertools.islice(stream, self._batch_size)):
            part = ImageArrays(pending[: self._batch_size], self._dataset.class_names)
            resize = None if self._image_size is None else Augmenter("none", self._image_size)
            samples = FullSizeSamples(part, resize, self._area)
            batch = chunk_arrays(samples.spec, self._batch_size)
            make_chunk(samples, [(index if index < len(part) else -1,) for index in range(self._batch_size)], batch)
            try:
                predictions = list(self._on_device(batch, [part.size(index) for index in range(len(part))]))
            except Exception as error:
                self._halve(error)
                continue
            yield from predictions
            pending = pending[len(part) :]

    def _predict(self, indices: list[int]) -> Iterator[Prediction]:
        from kseg.data.loading.pipeline import full_size_batches, sample_errors  # imports TensorFlow, which models do not need

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
                part = itertools.islice(remaining, self._batch_size)
                yield from self._on_device(batch, [self._dataset.size(index) for index in part])

    def _on_device(self, batch: Any, sizes: list[tuple[int, int]]) -> Iterator[Prediction]:
        """Yields the predictions of a batch's images, cut to their sizes; the padding behind them has none."""
        outputs = [np.asarray(values) for values in self._step(shard(batch))]
        for label, (matrix, *maps), (height, width) in zip(batch[1], zip(*outputs, strict=True), sizes, strict=False):
            label, prediction, *others = (values[:height, :width] for values in (label, *maps))
            kept = zip((name for name, wanted in self._kept.items() if wanted), others, strict=True)
            yield Prediction(matrix, label, prediction, **dict(kept))

    def _halve(self, error: Exception) -> None:
        """Halves the batch size if an error is about memory; raises it if not, or if batches cannot be smaller."""
        if not is_out_of_memory(error):
            raise error
        what = "windows" if self._windows else "images"
        fewer = self._step_size // 2 // device_count() * device_count()
        if not fewer:
            flag = "window" if self._windows else "image_size"
            side = self._windows.size if self._windows else self._image_size or self._area
            what = what if self._step_size > 1 else what[:-1]
            raise KsegError(
                f"memory ran out with {self._step_size} {what} of {side[0]}x{side[1]} per step, for images of up to "
                f"{self._area[0]}x{self._area[1]}; pass a smaller --{flag}, or shrink the largest images"
            ) from error
        print(f"memory ran out with {self._step_size} {what} per step; continuing with {fewer}", file=sys.stderr, flush=True)
        self._step_size = fewer
        self._model, self._step = self._build()  # or TensorFlow compiles a second size for any batch

    def evaluate(self, progress: bool = True, boundary: bool = False) -> Evaluation:
        """Scores every image of the data set. Each process of a run scores a share; all return the scores of the whole.

        boundary: also count for the boundary IoU, on the host. This and calibration cover only this process's images.
        """
        index, count, total = process_index(), process_count(), len(self._dataset)
        images = range(index, total, count)
        classes = self._model.outputs[0].shape[-1]
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


def _predict_step(model: keras.Model) -> Callable[[Any], Any]:
    """Returns predict_on_batch; on JAX a step that does not donate the weights, which running out of memory would lose."""
    if keras.backend.backend() != "jax":
        return model.predict_on_batch
    import jax

    @jax.jit
    def predict_step(trainable, others, batch):
        return model.stateless_call(trainable, others, batch, training=False)[0]

    def step(batch):
        groups = (model.trainable_variables, model.non_trainable_variables)
        return predict_step(*([variable.value for variable in group] for group in groups), batch)

    return step
