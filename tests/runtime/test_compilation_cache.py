"""The compilation cache: found again, limited in size, harmless if damaged."""

import json
import os
import subprocess
import sys

import keras
import pytest
from conftest import ROOT

from kseg.evaluate import main as evaluate
from kseg.runtime.compilation_cache import _prune, enable_compilation_cache
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's cache")
PROGRAM = """
import json, warnings
import jax
from kseg.runtime.compilation_cache import enable_compilation_cache
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.rpartition("/")[2]))
folder = enable_compilation_cache(SETTING)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    value = float(jax.jit(lambda x: (x * 3).sum())(jax.numpy.arange(5.0)))
print(json.dumps([str(folder), value, found.count("cache_hits"), found.count("cache_misses"), [str(w.message) for w in caught]]))
"""


def run(setting, **variables):
    """Runs PROGRAM in a new process. Returns (folder, value, programs found, programs added, warnings)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "KSEG_CACHE"))}
    environment |= {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"} | {k: str(v) for k, v in variables.items()}
    command = [sys.executable, "-c", PROGRAM.replace("SETTING", repr(str(setting)))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_survives_damage(tmp_path):
    folder, value, found, added, warned = run("auto", KSEG_CACHE=tmp_path)
    assert folder.startswith(f"{tmp_path}/xla/") and value == 30 and found == 0 and added > 0 and not warned
    assert run("auto", JAX_COMPILATION_CACHE_DIR=folder)[:4] == [folder, 30, added, 0]
    entries = list((tmp_path / "xla").rglob("*-cache"))
    assert len(entries) == added
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-9])
    again = run(folder)
    assert again[:3] == [folder, 30, 0] and len(again[4]) == added and "Error reading persistent" in again[4][0]


def test_the_least_used_goes_first(tmp_path):
    for age, name in enumerate(("new", "old", "older", "oldest")):
        path = tmp_path / f"{name}-{'0a' * 32}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - 10 * age))
    (tmp_path / "my-cache").write_bytes(bytes(1000))
    _prune(tmp_path, 250)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["my", "new", "old"]


def test_folders_that_cannot_be(tmp_path, monkeypatch):
    import jax

    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(KsegError, match=r"^--compilation_cache=.*file: cannot be written \(.*\); name another folder, or none$"):
        evaluate(["kseg.evaluate", "--model=r", f"--compilation_cache={file}"])
    with pytest.raises(KsegError, match=r"^--compilation_cache=: name a folder"):
        enable_compilation_cache("")
    monkeypatch.setenv("KSEG_CACHE", str(file))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert enable_compilation_cache() is None
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        assert enable_compilation_cache("none") is None
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
