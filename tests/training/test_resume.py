"""A run that was stopped, killed or damaged resumes to the same bytes as an undisturbed run."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import tiny_model
from compiled_model import load_compiled

from kseg import train
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.training.checkpoints import newest_checkpoint, read_state
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.slow


def flags(data_dir, run_dir, *more):
    return [
        "kseg.train", "--dataset=coco", f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--image_size=32", "--batch_size=2",
        "--epochs=3", "--augment=aug", "--model=deeplabv3plus", "--backbone=resnet18",
        "--backbone_weights=none", "--checkpoint_steps=1", "--workers=1",
        *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny_coco, tmp_path_factory):
    """An undisturbed run: 3 epochs of 4 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    train.main(flags(tiny_coco, run_dir))
    return RunDir(run_dir)


@pytest.fixture
def start():
    """Starts processes, and kills them after the test."""
    processes = []

    def start(arguments, program=("-m",)):
        command = [sys.executable, *program, *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition, process, seconds=300):
    """Waits until condition() holds, checking often: it may hold only for a moment."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_within_a_save(process, folder):
    """Kills the process (SIGKILL) while a checkpoint is half-written, not yet under its name."""
    while True:
        wait_for(lambda: half_written(folder), process)
        process.send_signal(signal.SIGSTOP)
        if half_written(folder):
            process.kill()
            return
        process.send_signal(signal.SIGCONT)


def half_written(folder):
    """Returns True while a checkpoint is being written."""
    with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
        return any(list(path.iterdir()) for path in list(folder.iterdir()) if path.name.startswith(".tmp-"))
    return False


def test_stopped_and_killed_and_resumed_is_never_stopped(whole, start, tiny_coco, tmp_path):
    run = RunDir(tmp_path / "run")
    process = start(flags(tiny_coco, run.path))
    wait_for(lambda: any(path >= run.checkpoint(1) for path in run.checkpoints()), process)
    process.send_signal(signal.SIGTERM)  # in the middle of the first epoch, or of its validation
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, out
    assert f"python -m kseg.train --resume --run_dir={run.path}" in out
    assert "Traceback" not in out
    assert run.report.exists() and run.evaluation.exists() and not run.model.exists()
    stopped = read_state(run.checkpoints()[0])
    assert (0, 0) < (stopped.epoch, stopped.step) < (2, 0)

    process = start(["kseg.train", "--resume", f"--run_dir={run.path}"])
    at = run.checkpoint(stopped.epoch * 4 + stopped.step + 2)
    wait_for(at.exists, process)
    kill_within_a_save(process, at.parent)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(run.path.rglob(".tmp-*"))

    train.main(["kseg.train", "--resume", f"--run_dir={run.path}"])
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()
    assert run.evaluation.read_bytes() == whole.evaluation.read_bytes()
    assert not list(run.path.rglob(".tmp-*"))
    for ours, theirs in ((run.checkpoints()[0], whole.checkpoints()[0]), (run.best, whole.best)):
        one, other = (load_compiled(path) for path in (ours, theirs))
        assert_same_weights(one.weights + one.optimizer.variables, other.weights + other.optimizer.variables)
        assert read_state(ours) == read_state(theirs)
        seeds, expected = (zipfile.ZipFile(path).read("kseg_state.safetensors") for path in (ours, theirs))
        assert seeds == expected and b"seed/0" in seeds
    assert len(run.checkpoints()) == 2


def test_ctrl_c_stops_a_run_that_can_be_resumed(start, tiny_coco, tmp_path):
    run = RunDir(tmp_path / "run")
    _, *arguments = tiny_model.flags(tiny_coco, run.path, "--epochs=1000", "--checkpoint_steps=1")
    process = start(arguments, program=[tiny_model.__file__])
    wait_for(lambda: any(path >= run.checkpoint(1) for path in run.checkpoints()), process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT, out
    assert f"python -m kseg.train --resume --run_dir={run.path}" in out
    assert "Traceback" not in out
    _, state = newest_checkpoint(run.checkpoints())
    assert (state.epoch, state.step) > (0, 0)


def assert_same_weights(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), err_msg=a.path)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the undisturbed run."""
    run = RunDir(tmp_path / "copy")
    shutil.copytree(whole.path, run.path)
    return run


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(copy, capsys):
    newest, before = copy.checkpoints()
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    path, state = newest_checkpoint(copy.checkpoints())
    assert path == before
    assert (state.epoch, state.step) == (2, 3)
    assert f"warning: {newest}: " in capsys.readouterr().out
    newest.write_bytes(content[:1000])
    assert newest_checkpoint(copy.checkpoints())[0] == before
    before.write_bytes(b"")
    with pytest.raises(KsegError, match="no checkpoint is whole; start the run again"):
        newest_checkpoint(copy.checkpoints())


def test_two_runs_never_share_a_folder(copy):
    copy.lock()
    with pytest.raises(KsegError, match="a run is going on there; wait for it"):
        train.main(["kseg.train", "--resume", f"--run_dir={copy.path}"])
    copy.unlock()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs=4"], r"--epochs=4: the run in .* has 3"),
        (["--learning_rate=0.5"], r"--learning_rate=0.5: the run in .* has 0.001"),
        (["--backbone=resnet50"], r"--backbone=resnet50: the run in .* has resnet18"),
    ],
)
def test_a_resumed_run_keeps_its_flags(copy, more, message):
    with pytest.raises(KsegError, match=message):
        train.main(["kseg.train", "--resume", f"--run_dir={copy.path}", *more])


def test_resume_where_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(KsegError, match="--resume needs --run_dir"):
        train.main(["kseg.train", "--resume"])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KsegError, match="is not empty"):
        train.main(["kseg.train", "--resume", f"--run_dir={tmp_path}"])


def test_a_finished_run_is_only_scored_again(copy, whole, tiny_coco, tmp_path):
    shutil.copytree(tiny_coco, tmp_path / "moved")
    copy.model.unlink()
    train.main(["kseg.train", "--resume", f"--run_dir={copy.path}", f"--data_dir={tmp_path / 'moved'}", "--noreport"])
    assert copy.evaluation.read_bytes() == whole.evaluation.read_bytes()
    assert copy.metrics.read_bytes() == whole.metrics.read_bytes()
    assert copy.read_config().data.data_dir == str(tmp_path / "moved")
    assert_same_weights(load_model(copy.model).weights, load_model(whole.model).weights)


def test_a_full_disk(start, tiny_coco, tmp_path):
    """From the second checkpoint on, the system limits the size of this process's files to less than a checkpoint."""
    run = RunDir(tmp_path / "run")
    process = start(flags(tiny_coco, run.path))
    wait_for(lambda: run.checkpoint(0).exists(), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    line = re.split("[\r\n]+", out.strip())[-1].strip()
    assert line.startswith(f"error: {run.path}/checkpoints/step-")
    assert "cannot be written (File too large); the last good one is " in line and line.endswith("make room and pass --resume")
    path, _ = newest_checkpoint(run.checkpoints())
    assert load_compiled(path).optimizer is not None
    assert not list(run.best.parent.glob(".tmp-*"))
    assert os.access(path, os.R_OK)
