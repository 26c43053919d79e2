"""The documentation runs: its Python blocks, the flags of its commands, its links, and its numbers."""

import pkgutil
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_model  # noqa: F401  (registers test_conv)
from conftest import ROOT
from PIL import Image

import kseg.data.sources
import kseg.models.backbones
import kseg.models.decoders  # these three fill the registries, before a test copies them
from kseg.__main__ import COMMANDS as NAMES
from kseg.config import TrainConfig
from kseg.config.command_line import parse
from kseg.data import DATASETS
from kseg.losses import LOSSES
from kseg.models.backbones.registry import BACKBONES
from kseg.models.registry import MODELS

sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts"))
import flags_page

COMMANDS = {f"kseg.{name}": config for name, config in flags_page.COMMANDS.items()} | {"scripts/train.sh": TrainConfig}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(path for folder in ("benchmarks", "experiments") for path in sorted((ROOT / folder).glob("*.md"))),
]


STORY = Path("docs/guides/python.md")
"""The page whose Python blocks go on with each other's names."""


def write_data(folder):
    """Six pictures of three classes in data/, and photo.jpg."""
    generator = np.random.default_rng(0)
    for index in range(6):
        label = generator.integers(0, 3, (6, 8)).repeat(8, 0).repeat(8, 1).astype("uint8")
        for kind, pixels in (("images", np.stack([80 * label] * 3, -1)), ("labels", label)):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"data/{kind}/{index}.png")
    Image.fromarray(generator.integers(0, 256, (60, 90, 3), "uint8")).save(folder / "photo.jpg")


def shortened(code):
    """The code with a small model in place of those on ResNet, and with few and small steps."""
    code = re.sub(
        r'"(?:deeplabv3plus|unet)"(.*), backbone="resnet\d+", backbone_weights=[^)]*',
        r'"test_conv"\1, backbone_weights=None',
        code,
    )
    return code.replace("image_size=256, epochs=40", "image_size=64, epochs=2, batch_size=2")


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / STORY).read_text(), re.M | re.S))
    assert shortened(code) != code
    exec(compile(shortened(code), "documentation", "exec"), {"__name__": "documentation"})
    assert {"my_model", "model.keras", "overlay.png", "runs"} <= {path.name for path in tmp_path.iterdir()}


def blocks(language):
    for page in PAGES:
        for number, match in enumerate(re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)):
            yield pytest.param(match[1], id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.slow
@pytest.mark.parametrize("code", [block for block in blocks("python") if not block.id.startswith(f"{STORY}-")])
def test_python_blocks_run(code, tmp_path, monkeypatch, smp):  # smp: some blocks import it
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    code = shortened(code)
    for registry in (MODELS, BACKBONES, LOSSES, DATASETS):  # CONTRIBUTING's examples register some
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("text", list(blocks("bash")))
def test_commands_have_flags_that_exist(text, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KSEG_CACHE", str(tmp_path))  # experiments.reproduce draws a few pictures
    for line in filter(None, (line.strip() for line in text.replace("\\\n", " ").splitlines())):
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # environment
            words.pop(0)
        if words[:2] == ["python", "-m"]:
            words = words[2:]
        elif words[0] == "kseg":
            words = [f"kseg.{words[1]}", *words[2:]]
        if words[0] == "benchmarks":
            import benchmarks.__main__

            benchmarks.__main__.read_arguments(words[1:])
        elif words[0] == "experiments.reproduce":
            import experiments.reproduce

            experiments.reproduce.read_arguments(words[1:])
        elif words[0] == "experiments.pretrained":
            import experiments.pretrained

            experiments.pretrained.read_arguments(words[1:])
        elif words[0] in COMMANDS:
            parse(COMMANDS[words[0]], words, "")
        else:
            assert words[0] in ("scripts/test.sh", "benchmarks/gpu.sh", "pip"), line


@pytest.mark.parametrize("path", sorted((ROOT / "flags").glob("*.txt")), ids=lambda path: path.name)
def test_flagfiles_parse(path):
    config = parse(TrainConfig, ["kseg.train", f"--flagfile={path}", "--data_dir=DIR"], "")
    assert config.data.dataset == "coco"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"
    assert "@@" not in page.read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_and_names_exist(page):
    text, folders = page.read_text(), "kseg|tests|scripts|benchmarks|experiments|flags|examples"
    for path in re.findall(rf"\b(?:{folders})/[\w/-]+\.(?:py|txt|md|sh|ipynb)\b", text):
        assert (ROOT / path).exists() or Path(path).stem == "NAME", path
    for name in set(re.findall(r"\bkseg(?:\.\w+)+", text)) - {"kseg.json", "kseg.kseg", "kseg.NAME", "kseg.COMMAND"}:
        pkgutil.resolve_name(name)


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*/*.md"):
        assert f"({page.relative_to(ROOT / 'docs')})" in index


@pytest.mark.parametrize("page", [page for page in PAGES if ROOT / "docs" in page.parents], ids=lambda page: page.name)
def test_pages_are_short(page):
    """A page has one topic. Lines fit a terminal, except those of tables, links and code. Generated tables do not count."""
    text = page.read_text()
    written = re.sub(r"<!-- (\S+) -->.*?<!-- /\1 -->", "", text, flags=re.S)
    assert len(written.split()) <= 1500 or page == flags_page.PAGE
    for line in re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).splitlines():
        assert len(line) <= 130 or line.startswith("|") or page == flags_page.PAGE, line


def test_the_page_of_flags_is_up_to_date():
    assert tuple(flags_page.COMMANDS) == NAMES
    assert flags_page.PAGE.read_text() == flags_page.page(), "run: python scripts/flags_page.py"


def test_the_readme_counts_the_backbones():
    names = [name for name in BACKBONES if not name.startswith("test_")]
    torchs = [name for name in names if not name.startswith("keras_cv/")]
    assert f"There are {len(names)} backbones: {len(torchs)} in torch's layout" in (ROOT / "README.md").read_text()


def test_the_readme_quotes_measured_scores():
    models = (ROOT / "README.md").read_text().partition("## Models")[2].partition("\n## ")[0]
    pages = ("docs/reference/results.md", "docs/guides/export.md", "experiments/README.md", "experiments/pretrained.md")
    measured = set(re.findall(r"0\.\d{4}", "".join((ROOT / page).read_text() for page in pages)))
    assert set(re.findall(r"0\.\d{4}", models)) <= measured


def test_public_names_exist():
    for name in kseg.__all__:
        assert getattr(kseg, name).__doc__
