"""All pairs of parity.py, on the torch backend."""

from conftest import run_tests_on


def test_every_pair():
    run_tests_on("torch", ["tests/models/test_parity.py"])
