"""tf.data: from a Dataset to batches of static shape, uint8 all the way to the device.

Sample i of epoch e under seed s is the same bytes whatever the number of threads or processes: its random state comes from
(s, e, i) alone, and tf.data keeps the order. TensorFlow sees no GPU here (kseg.runtime.tensorflow_import).

The samples are made by a kseg.data.loading.worker_pool.WorkerPool, or, where none is given, by threads of this process.
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
    EvalSamples,
    FullSizeSamples,
    Job,
    TrainSamples,
    chunk_arrays,
    epoch_order,
    make_chunk,
)
from kseg.data.loading.shutdown import Calls
from kseg.data.loading.worker_pool import PoolClosed, WorkerPool
from kseg.runtime.tensorflow_import import hide_accelerators_from_tensorflow
from kseg.utils.errors import KsegError
from kseg.utils.system import usable_cores

hide_accelerators_from_tensorflow()
import tensorflow as tf  # noqa: E402

MAX_CHUNK = 8
"""Samples that a process makes at a time: a divisor of the batch size, at most this."""

_calls = Calls()

cv2.setNumThreads(1)  # tf.data's threads work on whole samples; OpenCV's own would only get in their way


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
    """Returns (batches, steps an epoch).

    The batches, (image uint8 [B, h, w, 3], label uint8 [B, h, w]), are those of epochs first_epoch .. epochs - 1 on end, without
    the first first_step of them, to be read with steps_per_epoch. Every epoch shuffles anew and leaves out the last
    len(dataset) % batch_size images of its order.

    augment: see kseg.data.augmentation.augmenter.Augmenter. pool: processes to work in; None: threads. share: (i, n) gives part i of every
    batch, cut into n equal ones [B / n, ...].
    Raises KsegError if the data set has fewer images than a batch.
    """
    count = len(dataset)
    steps = count // batch_size
    if steps == 0:
        raise KsegError(
            f"--batch_size={batch_size} is larger than the training split, which has {count} images; use a smaller one"
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
    job = TrainSamples(dataset, Augmenter(augment, image_size), seed)
    return _batches(indices, job, part, pool), steps


def eval_batches(
    dataset: Dataset,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    pool: WorkerPool | None = None,
) -> tf.data.Dataset:
    """Returns batches (image uint8 [B, h, w, 3], label uint8 [B, h, w]) of every image in order, at the network's input size.

    The last batch is filled up with black images whose pixels are all ignored. share, pool: as for train_batches.
    """
    job = EvalSamples(dataset, Augmenter("none", image_size))
    return _batches(_padded(range(len(dataset)), batch_size, share), job, batch_size // share[1], pool)


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

    Images are resized to the network's input size, labels stay at their own: `size` is each label's (height, width), `area`
    is (H, W), at least the largest of them, and pixels beyond a label's size are ignored. The last batch is filled up with
    ignored images. image_size: None leaves images at their own size, too: (h, w) is `area`, black beyond it. pool: as for
    train_batches.
    """
    job = FullSizeSamples(dataset, Augmenter("none", image_size) if image_size else None, area)
    return _batches(_padded(indices, batch_size), job, batch_size, pool)


def _padded(indices: Sequence[int], batch_size: int, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """The indices, and -1 for what the last batch lacks; of each batch, one share."""
    filled = np.array([*indices, *[-1] * (-len(indices) % batch_size)], "int64")
    return tf.data.Dataset.from_tensor_slices(_share(filled, batch_size, share))


def _share(indices: np.ndarray, batch_size: int, share: tuple[int, int]) -> np.ndarray:
    """Part i of n of every batch, for share (i, n); indices: whole batches on end."""
    number, of = share
    return indices.reshape(-1, of, batch_size // of)[:, number].ravel()


def _batches(indices: tf.data.Dataset, job: Job, batch_size: int, pool: WorkerPool | None) -> tf.data.Dataset:
    """Makes samples in parallel, keeps their order; an index of -1 becomes a sample of fill-up values.

    A process makes a chunk of a batch at a time: what it costs to ask for one is then shared by its samples.
    """
    parallel, chunk, run = _runner(job, batch_size, pool)
    shapes, dtypes = [shape for shape, _, _ in job.spec], [tf.as_dtype(dtype) for _, dtype, _ in job.spec]

    @_calls
    def guarded(*arguments):
        if _calls.leaving:
            raise StopIteration
        try:
            return run([tuple(map(int, argument)) for argument in zip(*arguments, strict=True)])
        except PoolClosed:  # The run is over and nobody reads on: TensorFlow ends the batches without a word on stderr.
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


def _runner(job: Job, batch_size: int, pool: WorkerPool | None) -> tuple[int, int, Callable[[Sequence[tuple[int, ...]]], Arrays]]:
    """Returns how many chunks to make at a time, samples in each, and what makes one."""
    if pool is None:

        def run(arguments):
            arrays = chunk_arrays(job.spec, len(arguments))
            make_chunk(job, arguments, arrays)
            return arrays

        return usable_cores(), 1, run
    number = pool.add(job)
    chunk = max(size for size in range(1, MAX_CHUNK + 1) if batch_size % size == 0)
    return pool.calls, chunk, lambda arguments: pool.run(number, arguments)


_failures: list[BadSample | KsegError] = []
_failures_lock = threading.Lock()


@contextlib.contextmanager
def sample_errors() -> Iterator[None]:
    """Turns a BadSample or KsegError of a sample, or what TensorFlow makes of one raised in its threads, into one clear line
    (KsegError).
    """
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
    return error if isinstance(error, KsegError) else KsegError(f"{error} It was in order when the run started.")
