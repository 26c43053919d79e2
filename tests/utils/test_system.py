"""Hidden packages behave as if they were not installed."""

import importlib.metadata
import importlib.util
import sys

import pytest

from kseg.utils.system import without


def test_packages_count_as_not_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with without("wave"):
        assert importlib.util.find_spec("wave") is None and importlib.util.find_spec("colorsys")
        with pytest.raises(ModuleNotFoundError, match="No module named 'wave'"):
            import wave
        assert "wave" not in sys.modules
        assert importlib.metadata.version("numpy")
    import wave

    assert wave.open
