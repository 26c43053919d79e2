"""What every registered model promises: gradients everywhere, files that load, the same logits on every backend."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from contract import CASES

from kseg.models.backbones import keras_cv_tables
from kseg.models.backbones.registry import BACKBONES, list_backbones
from kseg.models.registry import MODELS, list_models


def run(mode, folder, backend):
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "models" / "contract.py"), mode, str(folder)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The models' files, made on torch, where building compiles nothing."""
    if keras.backend.backend() != "jax":
        pytest.skip("the run on JAX starts the other backends")
    folder = tmp_path_factory.mktemp("contract")
    run("build", folder, "torch")
    return folder


def family(backbone):
    """The file that builds it, or keras-cv's class."""
    if backbone.startswith("keras_cv/"):
        return keras_cv_tables.BACKBONES[backbone.removeprefix("keras_cv/")][0].class_name
    build = BACKBONES[backbone].build
    return getattr(build, "func", build).__module__


def test_every_model_and_every_family_is_a_case():
    models, backbones = ([name for name in names if not name.startswith("test_")] for names in (list_models(), list_backbones()))
    assert sorted({name.split()[0] for name in CASES}) == models
    taken = {family(backbone or MODELS[name].info["backbone"]) for name, (backbone, _) in CASES.items()}
    assert taken == {family(backbone) for backbone in backbones}


def test_every_variable_gets_a_gradient(built):
    assert json.loads((built / "gradients.json").read_text()) == {name: [] for name in CASES}


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_loaded_file_gives_the_same_logits_on(built, backend):
    run("predict", built, backend)
    for name in CASES:
        expected, found = np.load(built / f"{name}.built.npy"), np.load(built / f"{name}.{backend}.npy")
        assert found.dtype == "float32"
        assert np.ptp(expected) > 0
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), name
