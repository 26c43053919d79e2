"""The same tests on the other Keras backends, each in a process of its own, where Keras can be imported anew."""

import pytest
from conftest import run_tests_on

FILES = [
    "tests/runtime/test_devices.py",
    "tests/runtime/test_out_of_memory.py",
    "tests/metrics/test_confusion_matrix.py",
    "tests/losses/test_losses.py",
    "tests/models/test_auxiliary_head.py",
    "tests/training/test_optimizers.py",
    "tests/training/test_schedules.py",
    "tests/inference/test_predictor.py",
    "tests/models/test_layers.py",
    "tests/models/test_convolutions.py",
    "tests/models/test_deeplabv3plus.py",
]


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_on(backend):
    run_tests_on(backend, FILES)
