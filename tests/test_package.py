"""The package as a user gets it: the wheel, the console command, and the public names."""

import importlib
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import kseg
from kseg import __main__ as console

INSPECT = """
import importlib, importlib.metadata, pathlib, sys
import kseg
from kseg.reports.html import template

package = pathlib.Path(kseg.__file__).parent
assert package.parent == pathlib.Path(sys.argv[1]), package
for name in ("kseg.data.loading.worker_process", "kseg.sharing.export.tensorflow_process", *sys.argv[2:]):
    importlib.import_module(name)
templates = list(package.rglob("*.jinja"))
for path in templates:
    template(path.name, path.parent)
(command,) = importlib.metadata.entry_points(group="console_scripts", name="kseg")
assert command.load() is importlib.import_module("kseg.__main__").main
files = [path for suffix in ("*.jinja", "*.typed", "*.pyi") for path in package.rglob(suffix)]
print(*sorted(path.relative_to(package.parent).as_posix() for path in files))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the wheel of the checkout is installed in."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "installed"
    source.mkdir()  # a build in the checkout would take up what an earlier one left there
    shutil.copytree(ROOT / "kseg", source / "kseg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source], check=True)
    (wheel,) = folder.glob("kseg-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel], check=True)
    return target


def run(installed, *command):
    """What a command prints, run in another folder with the installed package before the checkout's."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [*map(str, command)], cwd=installed.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_everything(installed):
    modules = [f"kseg.{name}" for name in console.COMMANDS]
    files = run(installed, sys.executable, "-c", INSPECT, installed, *modules).split()
    expected = [path for suffix in ("*.jinja", "*.typed", "*.pyi") for path in (ROOT / "kseg").rglob(suffix)]
    assert files == sorted(path.relative_to(ROOT).as_posix() for path in expected)
    ours, theirs = ({path.relative_to(root).as_posix() for path in (root / "kseg").rglob("*.py")} for root in (installed, ROOT))
    assert ours == theirs


def test_commands_run_from_the_wheel(installed):
    text = run(installed, sys.executable, "-m", "kseg.train", "--help")
    assert "--backbone=NAME" in text
    assert run(installed, installed / "bin/kseg", "train", "--help") == text
    assert run(installed, installed / "bin/kseg", "--help") == console.help_text() + "\n"


def test_every_module_at_the_top_is_a_command_with_a_line_in_the_help():
    names = {path.stem for path in (ROOT / "kseg").glob("*.py")} - {"__init__", "__main__"}
    assert set(console.COMMANDS) == names
    lines = console.help_text().splitlines()
    for name in console.COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert 10 < len(line.split(maxsplit=1)[1]) < 80 and line.endswith(".")
        assert importlib.import_module(f"kseg.{name}").__doc__.split(": ")[1].startswith(f"python -m kseg.{name} ")


def test_mistakes_of_the_console_command(capsys, monkeypatch):
    for arguments, code, says in (
        (["trian"], 2, "error: unknown command 'trian'; did you mean train?\n"),
        (["train", "--epochs=0"], 2, "error: --epochs=0: must be at least 1\n"),
        ([], 2, ""),
    ):
        monkeypatch.setattr(sys, "argv", ["kseg", *arguments])
        with pytest.raises(SystemExit) as exit:
            console.main()
        assert exit.value.code == code
        said = capsys.readouterr()
        assert said.err == says
        assert (said.out == console.help_text() + "\n") == (not arguments)


def test_the_stub_names_what_the_package_exports():
    """And where it is from."""
    stub = (ROOT / "kseg/__init__.pyi").read_text()
    lines = sorted(line for line in stub.splitlines() if line.startswith("from "))
    assert lines == sorted(f"from {module} import {name} as {name}" for name, module in kseg._PUBLIC.items())
    for name in kseg.__all__:
        assert getattr(kseg, name) is getattr(importlib.import_module(kseg._PUBLIC[name]), name)
