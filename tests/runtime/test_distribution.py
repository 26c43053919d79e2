"""Many devices, many processes and other backends, in new processes on this machine, against one process with one device."""

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT

from kseg import evaluate, train
from kseg.runtime.run_dir import RunDir
from kseg.runtime.xla_flags import xla_flags_and
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="this run is already on another backend")
EPOCHS = 40
SLURM_PORTS = range(2**16 - 2**12, 2**16 - 1)
PROGRAM = ROOT / "tests" / "tiny_model.py"


def start(*flags, **environment):
    """Starts kseg.train in a new process."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-4000:]
    return out


def rows(run):
    """Returns the numbers of metrics.csv as [epochs, columns]."""
    content = [*csv.DictReader(run.metrics.read_text().splitlines())]
    return np.array([[float(row[name]) for name in ("loss", "val_loss", "mean_iou", "val_mean_iou")] for row in content])


def free_port(ports=(0,)):
    """Returns the first free port; 0 stands for any."""
    for port in ports:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::", port))
            return listener.getsockname()[1]
    raise OSError("no port is free")


def slurm(process, port):
    """Returns the variables that SLURM sets for each of two tasks. JAX derives the port from the job's number."""
    return {
        "SLURM_JOB_ID": str(port - SLURM_PORTS[0]),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": "0",
    }


@pytest.fixture(scope="module")
def reference(tiny_coco, tmp_path_factory):
    """A run of one process on one device, with all its checkpoints."""
    import tiny_model  # noqa: F401  (registers it, for this process)

    run = RunDir(tmp_path_factory.mktemp("reference") / "run")
    train.main(
        [
            "kseg.train", "--dataset=coco", f"--data_dir={tiny_coco}", f"--run_dir={run.path}", "--image_size=32x48",
            "--batch_size=4", "--epochs=3", "--augment=light", "--workers=0", "--model=test_tiny", "--backbone=test_tiny",
            "--noreport", "--keep_checkpoints=9",
        ]
    )  # fmt: skip
    return run


def copy_until(reference, step, folder):
    """Returns a copy of the reference as it was at one of its checkpoints."""
    run = RunDir(folder)
    run.best.parent.mkdir(parents=True)
    shutil.copy(reference.config, run.config)
    shutil.copy(reference.checkpoint(step), run.checkpoint(step))
    return run


@pytest.mark.slow
def test_on_eight_devices():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/eight_devices.py"]
    flags = xla_flags_and("--xla_force_host_platform_device_count=8")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": "tests"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
def test_two_processes_go_on_as_one_would(reference, tmp_path):
    """Two processes without common files resume a run of one process. Process 1 writes nothing and prints nothing."""
    run = copy_until(reference, 2, tmp_path / "run")
    port = free_port()
    hosts = [
        start(
            "--resume", f"--run_dir={folder}", "--tensorboard", "--distribution=data_parallel", f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2", f"--process_id={i}",
        )
        for i, folder in enumerate((run.path, tmp_path / "elsewhere"))
    ]  # fmt: skip
    out, silence = map(finish, hosts)
    assert "(2 devices of 2 processes)" in out
    assert "resumed after epoch 1" in out
    assert [line for line in silence.splitlines() if not line.startswith("[Gloo]")] == []
    assert not (tmp_path / "elsewhere").exists()
    np.testing.assert_allclose(rows(run), rows(reference), rtol=1e-5)
    ours, theirs = (np.array(json.loads(r.evaluation.read_text())["confusion_matrix"]) for r in (run, reference))
    assert ours.sum() == theirs.sum()
    assert np.abs(ours - theirs).sum() <= ours.sum() // 1000  # weights differ by rounding, and so may a pixel's class


@pytest.mark.slow
def test_two_processes_start_from_a_whole_model(tiny_coco, reference, tmp_path):
    """Each loads it, and they train as one process does."""
    runs, port = [RunDir(tmp_path / name) for name in ("one", "two")], free_port()
    flags = [
        "--dataset=coco", f"--data_dir={tiny_coco}", "--image_size=32x48", "--batch_size=4", "--epochs=1", "--workers=0",
        "--noreport", f"--init={reference.path}",
    ]  # fmt: skip
    train.main(["kseg.train", *flags, f"--run_dir={runs[0].path}"])
    several = ["--distribution=data_parallel", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    folders = (runs[1].path, tmp_path / "elsewhere")
    hosts = [start(*flags, *several, f"--process_id={i}", f"--run_dir={folder}") for i, folder in enumerate(folders)]
    out, _ = map(finish, hosts)
    assert "(2 devices of 2 processes)" in out
    assert "\nloaded  all " in out
    np.testing.assert_allclose(rows(runs[1]), rows(runs[0]), rtol=1e-5)


@pytest.mark.slow
def test_a_process_that_dies(tiny_coco, reference, tmp_path):
    """The other process reports it in one line and exits with 2. One process then finishes the run. SLURM's variables serve."""
    run, port = RunDir(tmp_path / "run"), free_port(SLURM_PORTS)
    config = json.loads(reference.config.read_text())
    flags = [f"--{name}={config[name]}" for name in ("dataset", "data_dir", "augment", "workers", "model", "backbone")]
    first, second = (
        start(
            *flags, f"--run_dir={run.path}", "--image_size=32x48", "--batch_size=4", f"--epochs={EPOCHS}", "--noreport",
            "--distribution=data_parallel", "--coordinator=auto", **slurm(i, port),
        )
        for i in range(2)
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not run.checkpoint(2).exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    _, err = first.communicate(timeout=110)  # --heartbeat_timeout and a little
    second.communicate()
    assert first.returncode == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "process 0 of 2: lost the connection to another process" in lines[0]
    assert "Traceback" not in err

    done = len(rows(run))
    assert 1 <= done < EPOCHS
    train.main(["kseg.train", "--resume", f"--run_dir={run.path}", "--distribution=none"])
    assert len(rows(run)) == EPOCHS
    assert rows(run)[-1, 0] < rows(run)[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends(backend, reference, tmp_path):
    """The same weights give the same losses, and the final model has the same score here."""
    run = copy_until(reference, 0, tmp_path / "run")
    assert f"backend {backend} " in finish(start("--resume", f"--run_dir={run.path}", KERAS_BACKEND=backend))
    np.testing.assert_allclose(rows(run), rows(reference), rtol=1e-4)
    evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={tmp_path / 'here.json'}"])
    there, here = (json.loads(path.read_text()) for path in (run.evaluation, tmp_path / "here.json"))
    counts, expected = np.array(here.pop("confusion_matrix")), np.array(there.pop("confusion_matrix"))
    assert counts.sum() == expected.sum()
    assert np.abs(counts - expected).sum() <= counts.sum() // 1000


MISUSE = [
    (["--process_id=1"], "--process_id=1: needs --coordinator=HOST:PORT"),
    (["--coordinator=a:1", "--num_processes=2", "--process_id=0"], "several processes need --distribution=data_parallel"),
    (["--distribution=data_parallel", "--coordinator=node0"], "expected HOST:PORT, such as node0:12345, or auto"),
    (["--distribution=data_parallel", "--coordinator=a:1"], "needs --num_processes=N and --process_id=I beside it"),
    (
        ["--distribution=data_parallel", "--coordinator=a:1", "--num_processes=2", "--process_id=2"],
        "--process_id=2: must be below --num_processes=2",
    ),
    (["--distribution=data_parallel", "--coordinator=auto"], "--coordinator=auto: no cluster found here"),
]


@pytest.mark.parametrize(("flags", "message"), MISUSE)
def test_misuse(flags, message):
    with pytest.raises(KsegError) as error:
        train.main(["kseg.train", *flags])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
