"""ArrayDataset, and arrays that worker processes share."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from kseg.data.check import check_samples
from kseg.data.dataset import BadSample, Dataset
from kseg.data.loading import shared_arrays
from kseg.data.loading.pipeline import eval_batches, train_batches
from kseg.data.loading.shared_arrays import SharedArrays
from kseg.data.loading.worker_pool import WorkerPool
from kseg.data.sources.arrays import ArrayDataset
from kseg.utils.errors import KsegError

NAMES = ("road", "car", "tree")


def arrays(rng, count=6, size=(40, 56)):
    return rng.integers(0, 256, (count, *size, 3), "uint8"), rng.integers(0, 3, (count, *size)).astype("int64")


def test_samples_are_the_arrays(rng):
    images, labels = arrays(rng)
    labels[0, :2] = 255
    data = ArrayDataset(images, labels, class_names=NAMES)
    assert isinstance(data, Dataset)
    assert (len(data), data.class_names, data.ignore_index, data.size(2), data.name(2)) == (6, NAMES, 255, (40, 56), "000002")
    sample = data.load(0)
    assert (sample.image == images[0]).all() and (sample.label == labels[0]).all()
    assert (sample.label.dtype, sample.name) == (np.uint8, "000000")
    sample.image[:] = sample.label[:] = 0  # a copy
    assert images[0].any() and (labels[0, :2] == 255).all()


def test_another_ignore_index_names_and_booleans(rng):
    images, labels = arrays(rng)
    labels[1, 3, 4] = -1
    data = ArrayDataset(images, labels, class_names=NAMES, ignore_index=-1, names=[f"p{i}.png" for i in range(6)])
    assert data.load(1).label[3, 4] == 255 and data.name(1) == "p1.png"
    masks = ArrayDataset(list(images), list(labels == 1), class_names=["other", "car"])
    assert (masks.load(5).label == (labels[5] == 1)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (x[..., 0], y), r"images\[0\]: expected \[H, W, 3\], not an array of shape \[40, 56\]; repeat the grey"),
        (lambda x, y: (x[0], y), r"images\[0\]: expected \[H, W, 3\]"),
        (lambda x, y: (x[0, 0], y), r"images: expected an array \[N, ...\] or a list"),
        (lambda x, y: (x / 255, y), r"images\[0\]: expected uint8 in 0..255, not float64; convert it"),
        (lambda x, y: (x, y.astype(float)), r"labels\[0\]: expected integers, class indices, not float64"),
        (lambda x, y: (x, np.eye(3, dtype=int)[y]), r"labels\[0\]: expected \[H, W\], .*; of one-hot labels take argmax"),
        (lambda x, y: (x[:5], y), "there are 5 images and 6 labels"),
        (lambda x, y: (x[:0], y[:0]), "images or labels are empty"),
        (lambda x, y: (x, y[:, :30]), r"images\[0\] is 40x56 and labels\[0\] 30x56"),
        (lambda x, y: ([*x], [*y[:5], y[5, :30]]), r"images\[5\] is 40x56 and labels\[5\] 30x56"),
    ],
)
def test_arrays_that_do_not_fit(rng, change, says):
    with pytest.raises(KsegError, match=says):
        ArrayDataset(*change(*arrays(rng)), class_names=NAMES)


def test_names_and_values_that_do_not_fit(rng):
    images, labels = arrays(rng)
    with pytest.raises(KsegError, match="6 images and 1 names"):
        ArrayDataset(images, labels, class_names=NAMES, names=["a"])
    with pytest.raises(KsegError, match="'car' occurs twice"):
        ArrayDataset(images, labels, class_names=["car", "car"])
    labels[3, 1, 2] = 3
    data = ArrayDataset(images, labels, class_names=NAMES)
    with pytest.raises(
        BadSample, match=r"labels\[3\] \(000003\): the pixel in row 1, column 2 has the value 3; class_names has 0 to 2"
    ):
        data.load(3)
    with pytest.raises(KsegError, match=r"labels\[3\]"):
        check_samples(data)
    assert len(check_samples(data, "skip")[0]) == 5


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


def mapped(folder, array, name):
    """A part of a file, which begins within a page."""
    np.concatenate([array[:1], array]).tofile(folder / name)
    return np.memmap(folder / name, array.dtype, "r", shape=(len(array) + 1, *array.shape[1:]))[1:]


@pytest.mark.parametrize("kind", ["arrays", "list", "memmap", "lists of a memmap"])
def test_processes_make_the_same_bytes(rng, pool, tmp_path, kind):
    images, labels = arrays(rng)
    if kind == "list":
        images, labels = [x[: 30 + i] for i, x in enumerate(images)], [x[: 30 + i] for i, x in enumerate(labels)]
    elif "memmap" in kind:
        images, labels = mapped(tmp_path, images, "images"), mapped(tmp_path, labels, "labels")
        if "lists" in kind:
            images, labels = list(images), list(labels)
    data = ArrayDataset(images, labels, class_names=NAMES)
    options = {"image_size": (32, 48), "batch_size": 3, "augment": "light", "seed": 1, "first_epoch": 0, "epochs": 2}
    ours, theirs = (list(train_batches(data, pool=p, **options)[0].as_numpy_iterator()) for p in (pool, None))
    assert len(ours) == 4
    for our, their in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(our, their, strict=True))


def memory_of_its_own(pid):
    """Bytes of a process that no file holds."""
    (line,) = (line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells of which kind a process's memory is")
def test_processes_share_the_memory(rng):
    """Two workers that have read every pixel have no copies of their own."""
    images = np.zeros((64, 512, 1024, 3), "uint8")  # 96 MiB, and 32 MiB of labels
    images[:] = rng.integers(0, 256, 3, "uint8")
    labels = np.zeros(images.shape[:3], "uint8")
    own = []
    with WorkerPool(2) as pool:
        for data in (slice(0, 2), slice(None)):
            dataset = ArrayDataset(images[data], labels[data], class_names=NAMES)
            batches = eval_batches(dataset, image_size=(32, 32), batch_size=1, pool=pool)
            assert len(list(batches.as_numpy_iterator())) == len(dataset)
            own.append(max(map(memory_of_its_own, pool.pids)))
    assert own[1] - own[0] < 32 << 20


@pytest.fixture
def _no_maps(monkeypatch):
    """Descriptors are those of other files in each test."""
    monkeypatch.setattr(shared_arrays, "_maps", {})


@pytest.mark.usefixtures("_no_maps")
def test_an_array_is_written_once(rng):
    shared, (images, labels) = SharedArrays(), arrays(rng)
    data = ArrayDataset(images, labels, class_names=NAMES)
    first = shared.dumps(data)
    size = shared._size
    assert len(first) < 2000 < size
    again = pickle.loads(shared.dumps((data, images)))
    assert shared._size == size
    assert (again[1] == images).all() and (again[0].load(4).label == labels[4]).all()
    again[1][:] = 0  # a worker's changes are its own
    shared_arrays._maps.clear()
    assert (pickle.loads(first).load(2).image == images[2]).all()
    shared.close()


@pytest.mark.usefixtures("_no_maps")
def test_a_memmap_is_reopened_or_written(rng, tmp_path):
    shared, (images, _) = SharedArrays(), arrays(rng)
    for array, written in (
        (mapped(tmp_path, images, "a"), False),
        (mapped(tmp_path, images, "b")[2:5], False),
        (mapped(tmp_path, images, "c")[:, ::2], True),  # no run of bytes in the file
        (np.memmap(tmp_path / "a", "uint8", "c", shape=images.shape), True),  # changes of its own
    ):
        size = shared._size
        assert (pickle.loads(shared.dumps(array)) == array).all()
        assert (shared._size > size) == written
    gone = mapped(tmp_path, images, "d")
    (tmp_path / "d").unlink()
    assert (pickle.loads(shared.dumps(gone)) == images).all()
    shared.close()


def test_a_full_disk_is_one_line(rng, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    data = ArrayDataset(*arrays(rng), class_names=NAMES)
    with WorkerPool(1) as pool, pytest.raises(KsegError, match=r"No space left on device.*set TMPDIR"):
        eval_batches(data, image_size=(32, 32), batch_size=1, pool=pool)
