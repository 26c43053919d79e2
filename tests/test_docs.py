"""The documentation is run: its Python blocks, and the flags of its commands."""

import re
import shlex
from pathlib import Path

import pytest

from kseg.config import (
    ConvertConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    HubConfig,
    InspectConfig,
    LrFinderConfig,
    PredictConfig,
    ReportConfig,
    ShardsConfig,
    TrainConfig,
)
from kseg.config.command_line import parse

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "kseg.train": TrainConfig,
    "scripts/train.sh": TrainConfig,
    "kseg.evaluate": EvaluateConfig,
    "kseg.predict": PredictConfig,
    "kseg.report": ReportConfig,
    "kseg.find_lr": LrFinderConfig,
    "kseg.inspect_data": InspectConfig,
    "kseg.export": ExportConfig,
    "kseg.convert": ConvertConfig,
    "kseg.write_shards": ShardsConfig,
    "kseg.hub": HubConfig,
    "kseg.demo": DemoConfig,
}


def _benchmark(words):
    import benchmark

    benchmark.parser().parse_args(words[1:])  # exits if it does not know a word


def _compare_torch(words):
    import compare_torch

    compare_torch.parser().parse_args(words[1:])


def _compare_backends(words):
    import compare_backends

    compare_backends.read_arguments(words)


def _reproduce(words):
    import reproduce

    reproduce.read_arguments(words[1:])


SCRIPTS = {
    "scripts/benchmark.py": _benchmark,
    "scripts/compare_torch.py": _compare_torch,
    "scripts/compare_backends.py": _compare_backends,
    "scripts/reproduce.py": _reproduce,
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    for page in PAGES:
        for number, match in enumerate(re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)):
            yield pytest.param(match[1], id=f"{page.name}-{number}")


@pytest.mark.parametrize("code", list(blocks("python")))
def test_python_blocks_run(code, tmp_path, monkeypatch, smp):  # smp: some blocks import it
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("text", list(blocks("bash")))
def test_commands_have_flags_that_exist(text, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KSEG_CACHE", str(tmp_path))  # scripts/reproduce.py draws a few pictures
    for line in filter(None, (line.strip() for line in text.splitlines())):
        words = shlex.split(line, comments=True)
        while words and "=" in words[0]:
            words.pop(0)
        if words[0] == "python" and words[1] in SCRIPTS:
            monkeypatch.syspath_prepend(ROOT / "scripts")
            SCRIPTS[words[1]](words[1:])
            continue
        if words[:2] == ["python", "-m"]:
            words = words[2:]
        config = COMMANDS.get(words[0])
        assert config or words[0] in ("scripts/test.sh", "pip"), line
        if config:
            parse(config, words, "")


@pytest.mark.parametrize("path", sorted((ROOT / "flags").glob("*.txt")), ids=lambda path: path.name)
def test_flagfiles_parse(path):
    config = parse(TrainConfig, ["kseg.train", f"--flagfile={path}", "--data_dir=DIR"], "")
    assert config.data.dataset == "coco"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
    assert "@@" not in page.read_text()


def test_public_names_exist():
    import kseg

    for name in kseg.__all__:
        assert getattr(kseg, name).__doc__
