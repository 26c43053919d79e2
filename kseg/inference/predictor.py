"""Predicts and scores a model on a whole split, at the labels' own size."""

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
    """Predict every image at its own size, by windows of `size` that overlap by at least this part of their sides."""

    size: tuple[int, int]
    overlap: float = 0.25


class _ScoreAtLabelSize(keras.layers.Layer):
    """(scores [B, h, w, C], label [B, H, W], size [B, 2]) -> (confusion matrices [B, C, C], predictions [B, H, W]), int32; with
    `confidence` also the probability of each predicted class, float32 [B, H, W], and with `keep` those of all, float16
    [B, H, W, C].

    The scores of each image are resized to its label's own size (bilinear, half-pixel centres), one image at a time, so that
    only one picture of full-size scores lives; with full_size they have it already. They are logits, or with
    `probabilities` what is in proportion to those.
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
            found = [ops.cast(ops.argmax(scores, axis=-1), "int32")]
            if self.confidence:  # beyond the windows of an image all scores are 0
                if self.probabilities:
                    found.append(ops.divide_no_nan(ops.max(scores, axis=-1), ops.sum(scores, axis=-1)))
                else:
                    found.append(ops.max(ops.softmax(scores), axis=-1))
            if self.keep:
                total = ops.sum(scores, axis=-1, keepdims=True)
                every = ops.divide_no_nan(scores, total) if self.probabilities else ops.softmax(scores)
                found.append(ops.cast(every, "float16"))
            return tuple(found) if len(found) > 1 else found[0]

        found = ops.map(predict, (scores, size))
        predictions, *others = found if self.confidence or self.keep else (found,)
        return confusion_matrices(label, predictions, scores.shape[-1]), predictions, *others

    def compute_output_spec(self, inputs):
        scores, label, _ = (x.shape for x in inputs)
        matrices = keras.KerasTensor((scores[0], scores[-1], scores[-1]), "int32")
        confidence = [keras.KerasTensor(label, "float32")] if self.confidence else []
        every = [keras.KerasTensor((*label, scores[-1]), "float16")] if self.keep else []
        return matrices, keras.KerasTensor(label, "int32"), *confidence, *every


@dataclass(frozen=True)
class Prediction:
    """One image: its confusion matrix int32 [C, C], label uint8 [H, W], prediction int32 [H, W]; if asked for, the probability
    of each predicted class, float32 [H, W], and those of all classes, float16 [H, W, C].
    """

    matrix: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray | None = None
    probabilities: np.ndarray | None = None


class Predictor:
    """Predicts label maps at the labels' own size: images are resized to image_size for the network, its logits to each
    label's size.

    Jitted, and compiled once for a data set: labels are padded to the largest. pool: processes that load the images;
    None: threads. Where a distribution is in force (kseg.runtime.distribution.data_parallel), each of this process's devices predicts its
    part of a batch; build the Predictor, and its model, and call it in the same scope.

    probabilities: the model returns those (kseg.inference.tta) and not logits. windows: images are not resized but predicted window
    by window, batch_size of them at a time, by a model of probabilities for one window's size; one device only. confidence: the
    probabilities of the predicted classes are kept, for calibration; keep_probabilities: those of all classes.

    Where memory runs out, batches are halved, which is said on stderr, and the work goes on from the same image.
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
        """Yields (confusion matrix int32 [C, C], prediction int32 [H, W]) of each image in turn.

        Raises KsegError if an image cannot be read.
        """
        for found in self.predict(indices):
            yield found.matrix, found.prediction

    def predict(self, indices: Iterable[int]) -> Iterator[Prediction]:
        """Yields what there is of each image in turn. Raises KsegError if an image cannot be read."""
        remaining = list(indices)
        while remaining:
            done = 0
            try:
                for found in self._predict(remaining):
                    done += 1
                    yield found
                return
            except Exception as error:
                self._halve(error)
            remaining = remaining[done:]

    def predict_arrays(self, images: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """Yields what there is of each image, uint8 [H, W, 3] of at most the size of the data set's largest, of a stream that is
        read a batch at a time.
        """
        stream = iter(images)
        waiting: list[np.ndarray] = []
        while waiting := waiting or list(itertools.islice(stream, self._batch_size)):
            part = ImageArrays(waiting[: self._batch_size], self._dataset.class_names)
            resize = None if self._image_size is None else Augmenter("none", self._image_size)
            samples = FullSizeSamples(part, resize, self._area)
            batch = chunk_arrays(samples.spec, self._batch_size)
            make_chunk(samples, [(index if index < len(part) else -1,) for index in range(self._batch_size)], batch)
            try:
                found = list(self._on_device(batch, [part.size(index) for index in range(len(part))]))
            except Exception as error:
                self._halve(error)
                continue
            yield from found
            waiting = waiting[len(part) :]

    def _predict(self, indices: list[int]) -> Iterator[Prediction]:
        from kseg.data.loading.pipeline import full_size_batches, sample_errors  # the pipeline needs TensorFlow, models do not

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
        """What there is of a batch's first images, cut to their sizes; the padding behind them has none."""
        found = [np.asarray(values) for values in self._step(shard(batch))]
        for label, (matrix, *maps), (height, width) in zip(batch[1], zip(*found, strict=True), sizes, strict=False):
            label, prediction, *others = (values[:height, :width] for values in (label, *maps))
            kept = zip((name for name, wanted in self._kept.items() if wanted), others, strict=True)
            yield Prediction(matrix, label, prediction, **dict(kept))

    def _halve(self, error: Exception) -> None:
        """Makes batches half as large, if it is memory that an error is about; raises if not, or if they cannot be smaller."""
        if not is_out_of_memory(error):
            raise error
        what = "windows" if self._windows else "images"
        fewer = self._step_size // 2 // device_count() * device_count()
        if not fewer:
            flag = "window" if self._windows else "image_size"
            side = self._windows.size if self._windows else self._image_size or self._area
            what = what if self._step_size > 1 else what[:-1]
            raise KsegError(
                f"memory ran out with {self._step_size} {what} of {side[0]}x{side[1]} a step, for pictures of up to "
                f"{self._area[0]}x{self._area[1]}; pass a smaller --{flag}, or make the largest pictures smaller"
            ) from error
        print(f"memory ran out with {self._step_size} {what} a step; going on with {fewer}", file=sys.stderr, flush=True)
        self._step_size = fewer
        self._model, self._step = self._build()  # TensorFlow would make one program for any batch of the second size that it sees

    def evaluate(self, progress: bool = True, boundary: bool = False) -> Evaluation:
        """Scores every image of the data set. The processes of a run each score a share of them; all return the whole.

        boundary: also counts for the boundary IoU, on the host; this and calibration are of this process's images alone.
        """
        index, count, total = process_index(), process_count(), len(self._dataset)
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


def _predict_step(model: keras.Model) -> Callable[[Any], Any]:
    """predict_on_batch; on JAX without giving the weights away, which a step that runs out of memory would not give back."""
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
