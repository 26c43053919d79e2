"""Data given as batches: tf.data.Dataset and keras.utils.PyDataset of (image, label).

They are read in their own order and size, from the first batch on. What needs single samples in any order does not work.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data.dataset import IGNORE_INDEX
from kseg.data.sources.arrays import ArrayDataset
from kseg.metrics.evaluation import Evaluation
from kseg.utils.errors import KsegError
from kseg.utils.progress import progress_bar

KEPT = 16
"""Images of the first batches that are kept to be shown."""


def is_batches(data: Any) -> bool:
    """Returns True for a tf.data.Dataset or a keras.utils.PyDataset."""
    if isinstance(data, keras.utils.PyDataset):
        return True
    tf = sys.modules.get("tensorflow")  # not imported here: who has such a data set has imported it
    return tf is not None and isinstance(data, tf.data.Dataset)


@dataclass(frozen=True)
class Batches:
    """Batches (image [B, H, W, 3] in 0..255, label [B, H, W]) and what the first one says of all.

    steps: number of batches. batch_size, image_size: of the first batch.
    """

    source: Any
    class_names: tuple[str, ...]
    steps: int
    batch_size: int
    image_size: tuple[int, int]
    ignore_index: int = IGNORE_INDEX

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image, label in _numpy(self.source):
            yield np.asarray(image), np.asarray(label)

    def __len__(self) -> int:
        return self.steps * self.batch_size


def read_batches(source: Any, class_names: Sequence[str], name: str) -> Batches:
    """Reads the first batch, and counts the batches if the source does not know. name: for messages.

    Raises KsegError for what does not yield (image, label) batches, never ends, or has labels beyond the classes.
    """
    if isinstance(source, keras.utils.PyDataset):
        steps = source.num_batches
        endless = steps is None
    else:
        steps = int(source.cardinality())
        endless, steps = steps == -1, (steps if steps >= 0 else None)
    if endless:
        raise KsegError(
            f"{name}: never ends; an epoch needs a number of batches, as .take(100) or a PyDataset's __len__ gives it"
        )
    first = next(iter(_numpy(source)), None)
    if first is None:
        raise KsegError(f"{name}: has no batches")
    if not isinstance(first, (tuple, list)) or len(first) != 2:
        what = f"{len(first)} values" if isinstance(first, (tuple, list)) else f"a {type(first).__name__}"
        raise KsegError(f"{name}: expected batches of (image, label), not of {what}")
    image, label = (np.asarray(value) for value in first)
    if image.ndim != 4 or image.shape[-1] != 3:
        hint = "; batch it first, .batch(8)" if image.ndim == 3 else ""
        raise KsegError(f"{name}: expected images [B, H, W, 3], not an array of shape {list(image.shape)}{hint}")
    if label.ndim != 3 or label.dtype.kind not in "iu":
        raise KsegError(f"{name}: expected labels [B, H, W] of integers, not {label.dtype} of shape {list(label.shape)}")
    if label.shape != image.shape[:3]:
        raise KsegError(f"{name}: images {list(image.shape[:3])} and labels {list(label.shape)} differ in number or size")
    check_labels(label, class_names, name)
    if image.dtype.kind == "f" and image.max(initial=0) <= 1:
        raise KsegError(f"{name}: images are in 0..1; the model takes 0..255, uint8 or float, and normalises them itself")
    if steps is None:
        steps = sum(1 for _ in _numpy(source))
    return Batches(source, tuple(class_names), int(steps), len(image), image.shape[1:3])


def check_labels(label: np.ndarray, class_names: Sequence[str], name: str) -> None:
    """Raises KsegError for a label that is neither a class nor 255."""
    values = np.unique(label)
    if len(wrong := values[(values != IGNORE_INDEX) & ((values < 0) | (values >= len(class_names)))]):
        raise KsegError(f"{name}: a label has the value {wrong[0]}; there are {len(class_names)} classes, and 255 is ignored")


def _numpy(source: Any) -> Iterator[Any]:
    if isinstance(source, keras.utils.PyDataset):
        return (source[index] for index in range(source.num_batches or 0))
    return iter(source.as_numpy_iterator())


@dataclass(frozen=True)
class ShownPredictions:
    """The first images of batches, their predictions and their scores, for a report. Called as a Predictor is."""

    dataset: ArrayDataset
    evaluation: Evaluation
    predictions: list[np.ndarray]

    def __call__(self, indices: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((self.evaluation.matrices[index], self.predictions[index]) for index in indices)


def evaluate_batches(model: keras.Model, batches: Batches, name: str) -> tuple[Evaluation, ShownPredictions]:
    """Scores a model on batches, at their labels' size. name: for messages. Raises KsegError for a label that is no class."""
    predictor = keras.Model(model.input, ops.argmax(model.output, axis=-1))  # on the device: logits are large
    matrices: list[np.ndarray] = []
    shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with progress_bar(len(batches), "evaluate") as bar:
        for images, labels in batches:
            check_labels(labels, batches.class_names, name)
            predictions = np.asarray(predictor.predict_on_batch(images))
            matrices += [_matrix(*pair, len(batches.class_names)) for pair in zip(labels, predictions, strict=True)]
            for image, label, prediction in itertools.islice(zip(images, labels, predictions, strict=True), KEPT - len(shown)):
                shown.append((image.copy(), label.copy(), prediction))
            bar.update(len(images))
    evaluation = Evaluation(batches.class_names, np.stack(matrices))
    pictures = [np.clip(image, 0, 255).astype("uint8") for image, _, _ in shown]
    dataset = ArrayDataset(pictures, [label for _, label, _ in shown], class_names=batches.class_names)
    first = Evaluation(batches.class_names, evaluation.matrices[: len(shown)])
    return evaluation, ShownPredictions(dataset, first, [prediction for _, _, prediction in shown])


def first_images(batches: Batches) -> ArrayDataset:
    """Returns the images of the first batch as a data set."""
    images, labels = next(iter(batches))
    return ArrayDataset(np.clip(images, 0, 255).astype("uint8"), labels, class_names=batches.class_names)


def _matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix of one image, int64 [C, C]."""
    counted = label != IGNORE_INDEX
    pairs = label[counted].astype("int64") * classes + prediction[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
