"""The same tests on the other Keras backends, each in a process of its own, where Keras can be imported anew."""

import pytest
from conftest import run_tests_on

FILES = [
    "tests/test_devices.py",
    "tests/test_exhaustion.py",
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
