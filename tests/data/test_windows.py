"""Validation by windows of images at their own size."""

import numpy as np
import pytest

from kseg.data.loading.pipeline import eval_batches
from kseg.data.loading.samples import WindowSamples
from kseg.data.loading.worker_pool import WorkerPool
from kseg.data.sources.arrays import ArrayDataset

SIZES = [(5, 7), (2, 9), (3, 4), (1, 1)]


@pytest.fixture
def data():
    """Images of four sizes. Every pixel has another label, and its own label as colour."""
    labels = [np.arange(height * width, dtype="uint8").reshape(height, width) for height, width in SIZES]
    images = [np.stack([label + 1] * 3, -1) for label in labels]
    return ArrayDataset(images, labels, class_names=[f"class {number}" for number in range(35)])


def test_windows_count_every_pixel_once(data):
    samples = WindowSamples.of(data, (3, 4))
    assert len(samples) == 2 * 2 + 1 * 3 + 1 + 1
    windows = [samples(number) for number in range(len(samples))]
    assert all(image.shape == (3, 4, 3) and label.shape == (3, 4) for image, label in windows)
    of_image = [windows[:4], windows[4:7], windows[7:8], windows[8:]]
    for (height, width), some in zip(SIZES, of_image, strict=True):
        counted = np.concatenate([label[label != 255] for _, label in some])
        assert sorted(counted) == list(range(height * width))
        for image, label in some:
            np.testing.assert_array_equal(image[label != 255][:, 0], label[label != 255] + 1)
    image, label = windows[3]  # the last of 5x7: moved to rows 2..4 and columns 3..6
    np.testing.assert_array_equal(image[..., 2], np.arange(35).reshape(5, 7)[2:, 3:] + 1)
    np.testing.assert_array_equal(label, [[255] * 4, [255, 25, 26, 27], [255, 32, 33, 34]])
    image, label = windows[6]  # the last of 2x9: moved to columns 5..8, with a black row below
    np.testing.assert_array_equal(image[..., 0], [[6, 7, 8, 9], [15, 16, 17, 18], [0] * 4])
    np.testing.assert_array_equal(label, [[255, 255, 255, 8], [255, 255, 255, 17], [255] * 4])
    assert [samples.name(number) for number in (3, 4)] == [f"{data.name(0)} window 3", f"{data.name(1)} window 0"]


def test_windows_in_batches_of_processes_and_threads(data):
    samples = WindowSamples.of(data, (3, 4))
    options = {"image_size": (64, 64), "window": (3, 4), "batch_size": 6}
    threads = list(eval_batches(data, **options).as_numpy_iterator())
    images, labels = (np.concatenate(parts) for parts in zip(*threads, strict=True))
    assert len(threads) == 2
    np.testing.assert_array_equal(images[:9], [samples(number)[0] for number in range(9)])
    assert (labels[9:] == 255).all() and not images[9:].any()
    shares = [list(eval_batches(data, share=(part, 2), **options).as_numpy_iterator()) for part in range(2)]
    np.testing.assert_array_equal(np.concatenate([shares[0][1][1], shares[1][1][1]]), threads[1][1])
    with WorkerPool(1) as pool:
        processes = list(eval_batches(data, pool=pool, **options).as_numpy_iterator())
    np.testing.assert_array_equal([batch[1] for batch in processes], [batch[1] for batch in threads])
