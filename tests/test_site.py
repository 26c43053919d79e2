"""The documentation as a site: mkdocs builds it without a warning, and it opens and searches without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from browser import browser, visit
from conftest import ROOT

pytest.importorskip("mkdocstrings", reason="needs the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?:script|img|link)\b[^>]*\b(?:src|href)="(?:https?:)?//', page.read_text()), page


def test_every_public_name_is_in_the_api_reference(site):
    import kseg

    anchors = set(re.findall(r'id="(kseg[\w.]+)"', "".join(page.read_text() for page in (site / "api").glob("*.html"))))
    assert {name.rpartition(".")[2] for name in anchors} >= set(kseg.__all__)


def test_links_out_of_docs_are_text(site):
    assert "notebook" in (site / "index.html").read_text()
    assert not re.search(r'href="[^"]*\.(?:md|ipynb)"', (site / "index.html").read_text())


def test_every_page_is_in_the_navigation():
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), loader)["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", str(nav)))
    assert listed == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


@pytest.mark.slow
@pytest.mark.browser
def test_the_site_opens_and_searches_offline(site):
    with browser() as chromium, visit(chromium, (site / "index.html").as_uri()) as seen:
        seen.page.locator(".md-search__input").click()
        seen.page.locator(".md-search__input").press_sequentially("load_torch_weights")
        link = seen.page.locator(".md-search-result__item a").first
        link.wait_for(timeout=30_000)
        assert "api/pytorch.html" in link.get_attribute("href")
        assert seen.problems == []
