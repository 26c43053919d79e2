"""The notebooks of examples/: every cell runs, and the committed outputs are those of a run.

python tests/test_notebook.py runs the notebooks in full and writes their outputs into them.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PRINTED = {
    "first_model": ("training images, ", "mIoU 0.", "runs/first/report.html"),
    "fine_tune": ("mIoU: fine-tuned 0.",),
    "jax_loop": ("arrays of weights", "epoch 1: loss ", "mIoU 0."),
}
"""What each notebook prints."""
SMALLER = {
    "first_model": {"100, 64, 8 ": "10, 64, 1 "},
    "fine_tune": {"80, 16, 64, 6 ": "10, 4, 64, 1 "},
    "jax_loop": {"64, 64, 8, 8 ": "16, 64, 1, 8 "},
}
"""Replacements that let the test take seconds, each of which occurs once; besides, a small model takes the place of FPN."""
SMALL_MODEL = {
    '"fpn"': '"test_conv"',
    'backbone="resnet18"': "backbone=None",
    "\nimport kseg\n": "\nimport kseg\nimport tiny_model\n",
}
notebooks = pytest.mark.parametrize("name", sorted(PRINTED))


def read(name: str):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", 4)


def execute(notebook, folder: Path) -> None:
    """Runs all cells in a new kernel, in a folder. Raises if a cell raises."""
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times
        if cell.cell_type == "code":  # progress bars and warnings are not worth keeping
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data.pop("image/jpeg", None)  # PIL shows a picture in both formats


def printed(notebook) -> str:
    found = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in found if output.output_type == "stream")


def check(name: str, notebook) -> None:
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    for text in PRINTED[name]:
        assert text in printed(notebook)
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", {})}
    assert "text/html" in kinds


@pytest.mark.slow
@notebooks
def test_every_cell_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = EXAMPLES.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]))
    notebook = read(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for old, new in (SMALLER[name] | SMALL_MODEL).items():
        times = sum(cell.source.count(old) for cell in notebook.cells)
        assert times == 1 or (times and old in SMALL_MODEL), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    execute(notebook, tmp_path)
    check(name, notebook)


@notebooks
def test_the_committed_notebook_was_run_and_is_small(name):
    notebook = read(name)
    nbformat.validate(notebook)
    check(name, notebook)
    content = (EXAMPLES / f"{name}.ipynb").read_text()
    assert len(content) < 250_000
    here = {str(Path.home()), tempfile.gettempdir(), sys.prefix, str(EXAMPLES.parent)}
    for place in ("/home/", "/Users/", "site-packages", *here):
        assert place not in content, place


@notebooks
def test_only_public_names_are_used(name):
    """Notebooks show kseg's face; a reader need not know its modules."""
    for module in re.findall(r"(?:from|import) (kseg[.\w]+)", "".join(cell.source for cell in read(name).cells)):
        assert module.startswith("kseg.metrics."), module  # documented functions of arrays


@notebooks
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)", "".join(cell.source for cell in read(name).cells)):
        assert (EXAMPLES / target).exists(), target


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(PRINTED):
        notebook = read(name)
        execute(notebook, EXAMPLES)
        nbformat.write(notebook, EXAMPLES / f"{name}.ipynb")
