"""Batches of static shape with tf.data, uint8 all the way to the device.

Sample i of epoch e with seed s has the same bytes with any number of threads or processes: its random state comes from (s, e, i)
alone, and tf.data keeps the order. TensorFlow sees no GPU here (kseg.runtime.tensorflow_import).

A kseg.data.loading.worker_pool.WorkerPool makes the samples, or, without one, threads of this process.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from kseg.data.augmentation.augmenter import Augmenter
from kseg.data.dataset import BadSample, Dataset
from kseg.data.loading.samples import (
    Arrays,
    FullSizeSamples,
    Samples,
    TrainSamples,
    chunk_arrays,
    epoch_order,
    eval_samples,
    make_chunk,
)
from kseg.data.loading.shutdown import TrackedCalls
from kseg.data.loading.worker_pool import PoolClosed, WorkerPool
from kseg.runtime.tensorflow_import import hide_accelerators_from_tensorflow
from kseg.utils.errors import KsegError
from kseg.utils.system import usable_cores

hide_accelerators_from_tensorflow()
import tensorflow as tf  # noqa: E402

MAX_CHUNK = 8
"""Most samples that a process makes at a time; the number is a divisor of the batch size."""

_calls = TrackedCalls()

cv2.setNumThreads(1)  # tf.data's threads work on whole samples; OpenCV's own would compete with them


def train_batches(
    dataset: Dataset,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    augment: str,
    seed: int,
    first_epoch: int,
    epochs: int,
    first_step: int = 0,
    share: tuple[int, int] = (0, 1),
    pool: WorkerPool | None = None,
) -> tuple[tf.data.Dataset, int]:
    """Makes the batches of a training run.

    Args:
        dataset: the training split.
        image_size: (h, w) of the batches.
        batch_size: images per step, B.
        augment: see kseg.data.augmentation.augmenter.Augmenter.
        seed: seed of the order and the augmentation.
        first_epoch, epochs: the batches are those of epochs first_epoch .. epochs - 1, one after the other.
        first_step: batches left out at the start.
        share: (i, n) cuts every batch into n equal parts and gives part i, [B / n, ...].
        pool: worker processes; None uses threads.

    Returns:
        (batches, steps per epoch). Batches are (image uint8 [B, h, w, 3], label uint8 [B, h, w]), to be read with
        steps_per_epoch. Each epoch has a new order and leaves out its last len(dataset) % batch_size images.

    Raises:
        KsegError: if the data set has fewer images than a batch.
    """
    count = len(dataset)
    steps = count // batch_size
    if steps == 0:
        raise KsegError(
            f"--batch_size={batch_size} is larger than the training split, which has {count} images; pass a smaller one"
        )

    part = batch_size // share[1]

    @_calls
    def order(epoch):
        return _share(epoch_order(count, batch_size, seed=seed, epoch=int(epoch)), batch_size, share)

    @tf.autograph.experimental.do_not_convert
    def epoch_indices(epoch):
        indices = tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), [steps * part])
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps * part], epoch), indices))

    indices = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_indices).skip(first_step * part)
    samples = TrainSamples(dataset, Augmenter(augment, image_size), seed)
    return _batches(indices, samples, part, pool), steps


def eval_batches(
    dataset: Dataset,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    window: tuple[int, int] | None = None,
    share: tuple[int, int] = (0, 1),
    pool: WorkerPool | None = None,
) -> tf.data.Dataset:
    """Returns batches (image uint8 [B, h, w, 3], label uint8 [B, h, w]) of every image in order.

    Images have the model's input size, image_size, or are cut into windows of their own size (`window`, see WindowSamples).
    The last batch is padded with black images, all of whose pixels are ignored. share, pool: see train_batches.
    """
    samples = eval_samples(dataset, image_size, window)
    return _batches(_padded(range(len(samples)), batch_size, share), samples, batch_size // share[1], pool)


def full_size_batches(
    dataset: Dataset,
    indices: Sequence[int],
    *,
    area: tuple[int, int],
    image_size: tuple[int, int] | None,
    batch_size: int,
    pool: WorkerPool | None = None,
) -> tf.data.Dataset:
    """Returns batches (image uint8 [B, h, w, 3], label uint8 [B, H, W], size int32 [B, 2]) of the images in order.

    Images are resized to the model's input size, labels are not. `size` is each label's (height, width); labels are padded to
    `area`, (H, W), with ignored pixels. The last batch is padded with ignored images. image_size: None keeps images at their own
    size, too, and pads them to `area` with black. pool: see train_batches.
    """
    samples = FullSizeSamples(dataset, Augmenter("none", image_size) if image_size else None, area)
    return _batches(_padded(indices, batch_size), samples, batch_size, pool)


def _padded(indices: Sequence[int], batch_size: int, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """The indices, padded with -1 to whole batches; of each batch, one share."""
    padded = np.array([*indices, *[-1] * (-len(indices) % batch_size)], "int64")
    return tf.data.Dataset.from_tensor_slices(_share(padded, batch_size, share))


def _share(indices: np.ndarray, batch_size: int, share: tuple[int, int]) -> np.ndarray:
    """Part i of n of every batch, for share (i, n). indices: of whole batches, one after the other."""
    number, of = share
    return indices.reshape(-1, of, batch_size // of)[:, number].ravel()


def _batches(indices: tf.data.Dataset, samples: Samples, batch_size: int, pool: WorkerPool | None) -> tf.data.Dataset:
    """Makes samples in parallel and keeps their order. An index of -1 becomes padding.

    A process makes several samples per request (a chunk), which spreads the cost of a request.
    """
    parallel, chunk, run = _runner(samples, batch_size, pool)
    shapes, dtypes = [shape for shape, _, _ in samples.spec], [tf.as_dtype(dtype) for _, dtype, _ in samples.spec]

    @_calls
    def guarded(*arguments):
        if _calls.exiting:
            raise StopIteration
        try:
            return run([tuple(map(int, argument)) for argument in zip(*arguments, strict=True)])
        except PoolClosed:  # the run is over: TensorFlow ends the batches without a message on stderr
            raise StopIteration from None
        except (BadSample, KsegError) as error:
            with _failures_lock:
                _failures.append(error)
            raise

    @tf.autograph.experimental.do_not_convert
    def call(*arguments):
        values = tf.numpy_function(guarded, arguments, dtypes, stateful=False)
        return tuple(tf.ensure_shape(value, (chunk, *shape)) for value, shape in zip(values, shapes, strict=True))

    @tf.autograph.experimental.do_not_convert
    def join(*values):
        return tuple(tf.reshape(value, (batch_size, *shape)) for value, shape in zip(values, shapes, strict=True))

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = parallel + 2
    batches = indices.batch(chunk, drop_remainder=True).map(call, num_parallel_calls=parallel, deterministic=True)
    if chunk < batch_size:
        batches = batches.batch(batch_size // chunk, drop_remainder=True).map(join)
    return batches.prefetch(2).with_options(options)


def _runner(
    samples: Samples, batch_size: int, pool: WorkerPool | None
) -> tuple[int, int, Callable[[Sequence[tuple[int, ...]]], Arrays]]:
    """Returns (number of chunks made at a time, samples per chunk, function that makes one)."""
    if pool is None:

        def run(arguments):
            arrays = chunk_arrays(samples.spec, len(arguments))
            make_chunk(samples, arguments, arrays)
            return arrays

        return usable_cores(), 1, run
    number = pool.add(samples)
    chunk = max(size for size in range(1, MAX_CHUNK + 1) if batch_size % size == 0)
    return pool.parallel_calls, chunk, lambda arguments: pool.run(number, arguments)


_failures: list[BadSample | KsegError] = []
_failures_lock = threading.Lock()


@contextlib.contextmanager
def sample_errors() -> Iterator[None]:
    """Raises KsegError for a BadSample or KsegError of a sample, also where TensorFlow replaced it by an error of its own."""
    _failures.clear()
    try:
        yield
    except BadSample as error:
        raise _explained(error) from error
    except tf.errors.OpError as error:
        if _failures:
            raise _explained(_failures[0]) from error
        raise


def _explained(error: BadSample | KsegError) -> KsegError:
    return error if isinstance(error, KsegError) else KsegError(f"{error} It was fine when the run started; restore it.")
