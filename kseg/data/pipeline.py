"""tf.data: from a Dataset to batches of static shape, uint8 all the way to the device.

Sample i of epoch e under seed s is the same bytes whatever the number of threads: its random state comes from (s, e, i)
alone, and tf.data keeps the order. TensorFlow sees no GPU here (kseg.distribution).
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from kseg.data.augment import Augmenter, sample_seed
from kseg.data.dataset import BadSample, Dataset
from kseg.distribution import hide_accelerators_from_tensorflow
from kseg.errors import KsegError

hide_accelerators_from_tensorflow()
import tensorflow as tf  # noqa: E402

cv2.setNumThreads(1)  # tf.data's threads work on whole samples; OpenCV's own would only get in their way


def train_batches(
    dataset: Dataset, *, image_size: tuple[int, int], batch_size: int, augment: str, seed: int, first_epoch: int, epochs: int
) -> tuple[tf.data.Dataset, int]:
    """Returns (batches, steps an epoch).

    The batches, (image uint8 [B, h, w, 3], label uint8 [B, h, w]), are those of epochs first_epoch .. epochs - 1 on end, to
    be read with steps_per_epoch. Every epoch shuffles anew and leaves out the last len(dataset) % batch_size images of its
    order.
    Raises KsegError if the data set has fewer images than a batch.
    """
    count = len(dataset)
    steps = count // batch_size
    if steps == 0:
        raise KsegError(
            f"--batch_size={batch_size} is larger than the training split, which has {count} images; use a smaller one"
        )
    augmenter = Augmenter(augment, image_size)

    def order(epoch):
        return np.random.default_rng([seed, int(epoch)]).permutation(count)[: steps * batch_size].astype("int64")

    def load(epoch, index):
        sample = dataset.load(int(index))
        return augmenter(sample.image, sample.label, sample_seed(seed, int(epoch), int(index)))

    def epoch_indices(epoch):
        indices = tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), [steps * batch_size])
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps * batch_size], epoch), indices))

    indices = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_indices)
    batches = _map(indices, load, [(*image_size, 3), image_size]).batch(batch_size, drop_remainder=True)
    return _finish(batches), steps


def eval_batches(dataset: Dataset, *, image_size: tuple[int, int], batch_size: int) -> tf.data.Dataset:
    """Returns batches (image uint8 [B, h, w, 3], label uint8 [B, h, w]) of every image in order, at the network's input size.

    The last batch is filled up with black images whose pixels are all ignored.
    """
    resize = Augmenter("none", image_size)

    def load(index):
        sample = dataset.load(int(index))
        return resize(sample.image, sample.label)

    return _in_order(range(len(dataset)), load, [(*image_size, 3), image_size], [0, dataset.ignore_index], batch_size)


def full_size_batches(
    dataset: Dataset, indices: Sequence[int], *, area: tuple[int, int], image_size: tuple[int, int], batch_size: int
) -> tf.data.Dataset:
    """Returns batches (image uint8 [B, h, w, 3], label uint8 [B, H, W], size int32 [B, 2]) of the images in order.

    Images are resized to the network's input size, labels stay at their own: `size` is each label's (height, width), `area`
    is (H, W), at least the largest of them, and pixels beyond a label's size are ignored. The last batch is filled up with
    ignored images.
    """
    resize = Augmenter("none", image_size)

    def load(index):
        sample = dataset.load(int(index))
        rows, columns = sample.label.shape
        label = np.full(area, dataset.ignore_index, "uint8")
        label[:rows, :columns] = sample.label
        return resize(sample.image, sample.label)[0], label, np.array([rows, columns], "int32")

    return _in_order(indices, load, [(*image_size, 3), area, (2,)], [0, dataset.ignore_index, 1], batch_size)


def _in_order(indices: Sequence[int], load: Callable, shapes: list, fill: list[int], batch_size: int) -> tf.data.Dataset:
    """Batches images in order; what the last batch lacks (index -1) is made of the fill values."""
    missing = -len(indices) % batch_size
    dtypes = ["uint8", "uint8", "int32"]
    empty = tuple(np.full(shape, value, dtype) for shape, value, dtype in zip(shapes, fill, dtypes, strict=False))
    padded = tf.data.Dataset.from_tensor_slices(np.array([*indices, *[-1] * missing], "int64"))
    return _finish(_map(padded, lambda index: empty if index < 0 else load(index), shapes).batch(batch_size, drop_remainder=True))


def _map(indices: tf.data.Dataset, load: Callable, shapes: list) -> tf.data.Dataset:
    """Runs load (a numpy function) in parallel, keeping the order."""
    dtypes = [tf.uint8, tf.uint8, tf.int32][: len(shapes)]

    def guarded(*arguments):
        try:
            return load(*arguments)
        except BadSample as error:
            with _failures_lock:
                _failures.append(error)
            raise

    def call(*arguments):
        values = tf.numpy_function(guarded, arguments, dtypes, stateful=False)
        return tuple(tf.ensure_shape(value, shape) for value, shape in zip(values, shapes, strict=True))

    return indices.map(call, num_parallel_calls=os.cpu_count(), deterministic=True)


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = os.cpu_count() or 1
    return batches.prefetch(2).with_options(options)


_failures: list[BadSample] = []
_failures_lock = threading.Lock()


@contextlib.contextmanager
def sample_errors() -> Iterator[None]:
    """Turns a BadSample, or what TensorFlow makes of one raised in its threads, into one clear line (KsegError)."""
    _failures.clear()
    try:
        yield
    except BadSample as error:
        raise KsegError(f"{error} It was in order when the run started.") from error
    except tf.errors.OpError as error:
        if _failures:
            raise KsegError(f"{_failures[0]} It was in order when the run started.") from error
        raise
