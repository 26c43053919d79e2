"""The same tests on the other Keras backends, each in a process of its own, where Keras can be imported anew."""

import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT, run_tests_on

FILES = [
    "tests/test_devices.py",
    "tests/test_metrics.py",
    "tests/test_losses.py",
    "tests/test_supervision.py",
    "tests/test_optimizers.py",
    "tests/test_schedules.py",
    "tests/test_scoring.py",
    "tests/models/test_layers.py",
    "tests/models/test_lowering.py",
    "tests/models/test_deeplabv3plus.py",
]


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_on(backend):
    run_tests_on(backend, FILES)


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_trains_on(backend, tiny_coco, tmp_path):
    """One epoch through the entry point; the run directory then holds a score."""
    if keras.backend.backend() != "jax":
        pytest.skip("this run is already on another backend")
    command = [
        sys.executable, "-m", "kseg.train", "--dataset=coco", f"--data_dir={tiny_coco}", "--image_size=32x48", "--epochs=1",
        "--batch_size=4", "--noreport", f"--run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith(f"backend {backend} ")
    assert lines[-1].startswith("mIoU ")
