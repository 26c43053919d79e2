"""The tests marked `backends`, again on PyTorch and TensorFlow: a process each, where Keras can be imported anew.

Reads on JAX the models' files that the tests on PyTorch write.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from cases import FILES
from conftest import ROOT
from model_files import check_file

pytestmark = pytest.mark.slow
if keras.backend.backend() != "jax":
    pytest.skip("the run on JAX starts the others", allow_module_level=True)


def marked() -> list[str]:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    return sorted(str(path.relative_to(ROOT)) for path in files if "mark.backends" in path.read_text())


def run(backend: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "backends", "-p", "no:cacheprovider", "-p", "no:xdist", *marked()]
    # One thread: another process of tests runs beside, and two that wait for each other's threads take several times as long.
    environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", "KSEG_TEST_MODELS": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The models' files."""
    folder = tmp_path_factory.mktemp("models")
    run("torch", folder)
    return folder


def test_torch(folder):
    assert len(list(folder.glob("*.keras"))) == len(FILES)


def test_tensorflow(folder):
    run("tensorflow", folder)


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_file_of_torch_gives_the_same_logits(case, folder):
    check_file(case, folder)
