import threading
import time

import numpy as np
import pytest

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augmentation.augmenter import Augmenter, sample_seed
from kseg.data.dataset import BadSample, Sample
from kseg.data.loading.pipeline import eval_batches, full_size_batches, sample_errors, train_batches
from kseg.utils.errors import KsegError


class Slow:
    """A data set in memory; every other sample is slow, so that they finish out of order."""

    class_names = ("a", "b", "c")
    ignore_index = 255

    def __init__(self, count=11, size=(40, 50)):
        generator = np.random.default_rng(1)
        self._samples = [
            Sample(generator.integers(0, 256, (*size, 3)).astype("uint8"), generator.integers(0, 3, size).astype("uint8"), f"{i}")
            for i in range(count)
        ]
        self.threads = set()

    def __len__(self):
        return len(self._samples)

    def name(self, index):
        return str(index)

    def size(self, index):
        return self._samples[index].label.shape

    def load(self, index):
        self.threads.add(threading.get_ident())
        time.sleep(0.01 * (index % 3))
        return self._samples[index]


def test_training_batches_are_the_same_bytes_every_time():
    data = Slow()
    runs = []
    for _ in range(2):
        batches, steps = train_batches(data, image_size=(32, 48), batch_size=4, augment="aug", seed=5, first_epoch=0, epochs=2)
        runs.append(list(batches.as_numpy_iterator()))
    assert steps == 2
    assert len(runs[0]) == 2 * steps
    assert len(data.threads) > 1
    for first, second in zip(*runs, strict=True):
        for x, y in zip(first, second, strict=True):
            assert x.dtype == "uint8"
            np.testing.assert_array_equal(x, y)
    assert runs[0][0][0].shape == (4, 32, 48, 3)
    assert runs[0][0][1].shape == (4, 32, 48)


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    """Epoch 1 alone equals epoch 1 of a run from the start, and its samples equal the augmenter's for (seed, epoch, index)."""
    data = Slow()
    options = {"image_size": (32, 32), "batch_size": 3, "augment": "light", "seed": 9, "epochs": 2}
    whole, steps = train_batches(data, first_epoch=0, **options)
    tail, _ = train_batches(data, first_epoch=1, **options)
    for x, y in zip(list(whole.as_numpy_iterator())[steps:], tail.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(x[0], y[0])
    augment = Augmenter("light", (32, 32))
    expected = {augment(data.load(i).image, data.load(i).label, sample_seed(9, 1, i))[0].tobytes() for i in range(len(data))}
    found = {image.tobytes() for images, _ in tail.as_numpy_iterator() for image in images}
    assert found < expected
    assert len(found) == 9  # no image twice in an epoch


def test_another_seed_or_epoch_is_another_order():
    data = Slow()

    def first_batch(seed, epoch):
        options = {
            "image_size": (32, 32),
            "batch_size": 8,
            "augment": "none",
            "seed": seed,
            "first_epoch": epoch,
            "epochs": epoch + 1,
        }
        return next(train_batches(data, **options)[0].as_numpy_iterator())[0].tobytes()

    assert len({first_batch(0, 0), first_batch(1, 0), first_batch(0, 1)}) == 3


def test_evaluation_drops_no_image_and_pads_with_ignored_pixels():
    data = Slow(count=7)
    batches = list(eval_batches(data, image_size=(40, 50), batch_size=3).as_numpy_iterator())
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert [len(batch[0]) for batch in batches] == [3, 3, 3]
    for i in range(7):
        np.testing.assert_array_equal(images[i], data.load(i).image)
        np.testing.assert_array_equal(labels[i], data.load(i).label)
    assert (images[7:] == 0).all()
    assert (labels[7:] == 255).all()


def test_full_size_labels_of_many_sizes(tiny_coco):
    data = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")
    batches = full_size_batches(data, [4, 0, 1], area=(50, 64), image_size=(32, 32), batch_size=2)
    images, labels, sizes = (np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True))
    assert images.shape == (4, 32, 32, 3)
    assert labels.shape == (4, 50, 64)
    np.testing.assert_array_equal(sizes, [(48, 64), (48, 64), (50, 40), (1, 1)])
    for row, index in enumerate([4, 0, 1]):
        height, width = sizes[row]
        np.testing.assert_array_equal(labels[row, :height, :width], data.load(index).label)
        assert (labels[row, height:] == 255).all()
        assert (labels[row, :, width:] == 255).all()
    assert (labels[3] == 255).all()


def test_a_split_smaller_than_a_batch_is_refused():
    with pytest.raises(KsegError, match="--batch_size=12 is larger than the training split, which has 11 images"):
        train_batches(Slow(), image_size=(32, 32), batch_size=12, augment="none", seed=0, first_epoch=0, epochs=1)


def test_a_file_that_goes_bad_during_the_run_is_one_clear_line():
    class Broken(Slow):
        def load(self, index):
            if index == 6:
                raise BadSample("images/train/6.jpg: cannot be read.")
            return super().load(index)

    with (
        pytest.raises(KsegError, match=r"^images/train/6.jpg: cannot be read. It was fine when the run started"),
        sample_errors(),
    ):
        list(eval_batches(Broken(), image_size=(32, 32), batch_size=4))


def test_tensorflow_sees_no_accelerator():
    import keras
    import tensorflow as tf

    if keras.backend.backend() == "tensorflow":
        pytest.skip("here TensorFlow computes")
    assert tf.config.get_visible_devices("GPU") == []
