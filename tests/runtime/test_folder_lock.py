"""Two runs never share a folder, also where Python has no fcntl (Windows)."""

import os
import subprocess
import sys
import types

import pytest
from conftest import ROOT

from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

IMPORTS = """
import importlib, os, pkgutil, sys
import psutil  # has a part for each system
for name in ("fcntl", "grp", "pwd", "resource", "termios"):  # Python has them on POSIX systems only
    sys.modules[name] = None
del os.sched_getaffinity
import kseg, kseg.inference, kseg.runtime, kseg.training
for package in (kseg.inference, kseg.runtime, kseg.training):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
kseg.runtime.run_dir.RunDir(sys.argv[1]).lock()
print("imported")
"""


@pytest.mark.slow
def test_kseg_is_imported_without_posix_modules(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORTS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "imported\n"
    assert [line for line in done.stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: this Python cannot lock files: make sure that no two runs write to one --run_dir"
    ]


def test_a_lock_is_held_until_it_is_released(tmp_path):
    first, second = RunDir(tmp_path), RunDir(tmp_path)
    first.lock()
    with pytest.raises(KsegError, match=r"^--run_dir=.*: a run is going on there"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


@pytest.mark.parametrize("taken", [False, True])
def test_windows_locks_a_byte_of_the_file(taken, tmp_path, monkeypatch):
    calls = []

    def locking(descriptor, mode, size):
        calls.append((mode, size))
        if taken:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    run = RunDir(tmp_path)
    if taken:
        with pytest.raises(KsegError, match="a run is going on there"):
            run.lock()
    else:
        run.lock()
        run.unlock()
    assert calls == [(2, 1)]
