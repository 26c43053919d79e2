import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augmentation.augmenter import Augmenter
from kseg.data.dataset import BadSample
from kseg.data.loading.pipeline import eval_batches, full_size_batches, sample_errors, train_batches
from kseg.data.loading.samples import EvalSamples, TrainSamples
from kseg.data.loading.worker_pool import WorkerPool, worker_pool
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


def open_split(folder, split):
    return build_dataset(DataConfig(dataset="coco", data_dir=str(folder)), split)


def training(data, pool, **options):
    """Batches of two epochs as a list of (images, labels)."""
    given = {"image_size": (32, 48), "batch_size": 4, "augment": "aug_elastic", "seed": 5, "first_epoch": 0, "epochs": 2}
    return list(train_batches(data, pool=pool, **(given | options))[0].as_numpy_iterator())


def same(first, second):
    return len(first) == len(second) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    )


def test_processes_make_the_same_bytes_as_threads(tiny_coco, pool):
    train, val = open_split(tiny_coco, "train"), open_split(tiny_coco, "val")
    threads = training(train, None)
    assert len(threads) == 4
    assert same(threads, training(train, pool))
    assert not same(threads, training(train, pool, seed=6))
    assert same(training(train, None, batch_size=9), training(train, pool, batch_size=9))  # three chunks a batch
    options = {"image_size": (40, 48), "batch_size": 3}
    assert same(
        list(eval_batches(val, **options).as_numpy_iterator()), list(eval_batches(val, pool=pool, **options).as_numpy_iterator())
    )
    options |= {"area": (50, 64), "indices": [4, 0, 1, 1]}
    assert same(
        list(full_size_batches(val, **options).as_numpy_iterator()),
        list(full_size_batches(val, pool=pool, **options).as_numpy_iterator()),
    )


def test_a_run_resumed_within_an_epoch_continues_with_the_same_bytes(tiny_coco, pool):
    data = open_split(tiny_coco, "train")
    whole = training(data, pool)
    assert same(whole[3:], training(data, pool, first_epoch=1, first_step=1))
    assert same(whole[1:], training(data, None, first_step=1))


DIGEST = """
import hashlib, sys
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.loading.pipeline import train_batches
from kseg.data.loading.worker_pool import worker_pool

folder, workers = sys.argv[1], int(sys.argv[2])
data = build_dataset(DataConfig(dataset="coco", data_dir=folder), "train")
digest = hashlib.sha256()
with worker_pool(workers) as pool:
    batches, _ = train_batches(
        data, image_size=(32, 48), batch_size=4, augment="aug_elastic", seed=5, first_epoch=0, epochs=2, pool=pool
    )
    for image, label in batches.as_numpy_iterator():
        digest.update(image.tobytes() + label.tobytes())
    import keras

    print(keras.backend.backend(), digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "workers"), [("jax", 8), ("torch", 1)])
def test_same_bytes_whatever_the_backend_and_the_number_of_processes(tiny_coco, backend, workers):
    """The script comes from standard input, so there is no main module that a worker could import."""
    import hashlib

    expected = hashlib.sha256()
    for image, label in training(open_split(tiny_coco, "train"), None):
        expected.update(image.tobytes() + label.tobytes())
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-", str(tiny_coco), str(workers)],
        input=DIGEST, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [backend, expected.hexdigest()], done.stderr[-2000:]


def test_a_bad_sample_is_the_same_line_from_a_process(tiny_coco, pool, tmp_path):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(tiny_coco, folder)
    data = open_split(folder, "val")
    (folder / "images/val/003.png").write_bytes(b"no image")
    with pytest.raises(BadSample) as there:
        data.load(3)
    with pytest.raises(KsegError) as error, sample_errors():
        list(eval_batches(data, image_size=(32, 32), batch_size=2, pool=pool))
    assert str(error.value).startswith(f"{there.value} It was fine when the run started")


def test_a_transform_that_fails_on_an_image_is_one_line(tiny_coco, pool):
    data = open_split(tiny_coco, "train")
    for where in (pool, None):
        with (
            pytest.raises(KsegError, match=r"^00\d.png: --augment fails on this image \(Crop size .*\); change"),
            sample_errors(),
        ):
            training(data, where, augment="RandomCrop(height=60, width=60)")


def test_a_process_that_dies_is_one_line(tiny_coco):
    data = open_split(tiny_coco, "train")
    with WorkerPool(2) as pool:
        number = pool.add(TrainSamples(data, Augmenter("none", (32, 32)), 0))
        pool.run(number, [(0, 0)])
        os.kill(pool.pids[1], signal.SIGKILL)
        with (
            pytest.raises(KsegError, match=r"was killed \(SIGKILL\), most likely because memory ran out; pass a lower"),
            sample_errors(),
        ):
            training(data, pool, epochs=40)


class OnlyHere:
    class_names, ignore_index = ("a", "b"), 255

    def __init__(self):
        self.unpicklable = lambda: None


def test_a_data_set_that_cannot_be_sent_is_one_line(tiny_coco, pool, monkeypatch):
    with pytest.raises(KsegError, match=r"^OnlyHere cannot be sent to worker processes .*; pass --workers=0.$"):
        pool.add(EvalSamples(OnlyHere(), Augmenter("none", (32, 32))))
    local = OnlyHere()
    del local.unpicklable
    monkeypatch.setattr(sys.modules["__main__"], "OnlyHere", OnlyHere, raising=False)
    monkeypatch.setattr(OnlyHere, "__module__", "__main__")  # as if defined in a notebook
    number = pool.add(EvalSamples(local, Augmenter("none", (32, 32))))
    with pytest.raises(KsegError, match="define its class in a module that can be imported, or pass --workers=0"):
        pool.run(number, [(0,)])


def test_equal_samples_are_sent_once(tiny_coco, pool):
    data = open_split(tiny_coco, "val")
    assert pool.add(EvalSamples(data, Augmenter("none", (32, 32)))) == pool.add(EvalSamples(data, Augmenter("none", (32, 32))))
    assert pool.add(EvalSamples(data, Augmenter("none", (32, 32)))) != pool.add(EvalSamples(data, Augmenter("none", (32, 48))))


IN_PROCESSES = """
import sys
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.loading.pipeline import train_batches
from kseg.data.loading.worker_pool import WorkerPool

data = build_dataset(DataConfig(dataset="coco", data_dir=sys.argv[1]), "train")
with WorkerPool(2) as pool:
    options = {"image_size": (256, 256), "batch_size": 4, "augment": "aug", "seed": 0, "first_epoch": 0, "epochs": 1000}
    batches = train_batches(data, pool=pool, **options)[0].as_numpy_iterator()
    next(batches)
    next(batches)
"""


IN_THREADS = """
import time
import numpy as np
from kseg.data.dataset import Sample
from kseg.data.loading.pipeline import train_batches

class Slow:
    class_names, ignore_index = ("a", "b"), 255
    def __len__(self):
        return 8
    def load(self, index):
        time.sleep(0.3)
        return Sample(np.zeros((32, 32, 3), "uint8"), np.zeros((32, 32), "uint8"), "x")

options = {"image_size": (32, 32), "batch_size": 2, "augment": "none", "seed": 0, "first_epoch": 0, "epochs": 99}
batches = iter(train_batches(Slow(), **options)[0])
next(batches)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [IN_PROCESSES, IN_THREADS], ids=["processes", "threads"])
def test_exit_within_an_epoch_is_quiet(tiny_coco, program):
    """An error or Ctrl-C in a training step ends the process like this. TensorFlow's threads, which still ask for samples, must
    neither print tracebacks nor block the exit.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_coco)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert done.stderr == ""


def test_no_workers_are_threads():
    with worker_pool(0) as pool:
        assert pool is None


PARENT = """
import os, sys, time
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augmentation.augmenter import Augmenter
from kseg.data.loading.samples import EvalSamples
from kseg.data.loading.worker_pool import WorkerPool

data = build_dataset(DataConfig(dataset="coco", data_dir=sys.argv[1]), "train")
pool = WorkerPool(2)
number = pool.add(EvalSamples(data, Augmenter("none", (32, 32))))
for _ in range(8):
    pool.run(number, [(0,)])
loaded = [open(f"/proc/{pid}/maps").read() for pid in pool.pids]
print(*pool.pids, any(name in maps for maps in loaded for name in ("libtorch", "tensorflow", "jaxlib")), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_processes_are_light_and_die_with_a_killed_parent(tiny_coco):
    command = [sys.executable, "-c", PARENT, str(tiny_coco)]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as parent:
        *pids, heavy = parent.stdout.readline().split()
        assert heavy == "False"
        parent.kill()
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    """True if the process runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
