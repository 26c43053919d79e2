"""examples/first_model.ipynb: every cell runs, and the committed outputs are those of a run.

python tests/test_notebook.py runs the notebook in full and writes its outputs into it.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "first_model.ipynb"


def execute(notebook, folder: Path) -> None:
    """Runs all cells in a new kernel, in a folder. Raises if a cell raises."""
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times
        if cell.cell_type == "code":  # progress bars and warnings are not worth keeping
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def outputs(notebook) -> tuple[str, list[str]]:
    """Returns what the cells printed, and the type of each picture."""
    found = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in found if output.output_type == "stream")
    kinds = [kind for output in found for kind in output.get("data", {}) if kind.startswith("image/")]
    return text, kinds


def check(notebook) -> None:
    text, kinds = outputs(notebook)
    assert "training images of 12 classes: background, " in text
    assert "mIoU 0." in text
    assert kinds == ["image/jpeg", *["image/png"] * 4, "image/jpeg"]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


SMALLER = {
    "96, 16, 96, 12": "4, 2, 64, 1",
    'model="fpn"': 'model="test_conv"',
    'backbone="resnet18"': "backbone=None",
    "import kseg\n": "import kseg\nimport tiny_model\n",
}
"""Replacements that let the test take seconds."""


def test_every_cell_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = NOTEBOOK.parent.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for old, new in SMALLER.items():
        assert sum(cell.source.count(old) for cell in notebook.cells) == 1, old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    execute(notebook, tmp_path)
    check(notebook)
    assert "4 training images" in outputs(notebook)[0]


def test_the_committed_notebook_was_run_and_is_small():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    check(notebook)
    assert "96 training images" in outputs(notebook)[0]
    content = NOTEBOOK.read_text()
    assert len(content) < 400_000
    here = {str(Path.home()), tempfile.gettempdir(), sys.prefix, str(NOTEBOOK.parent.parent)}
    for place in ("/home/", "/Users/", "site-packages", *here):
        assert place not in content, place


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", "".join(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells)):
        assert (NOTEBOOK.parent / target).exists(), target


if __name__ == "__main__":
    notebook = nbformat.read(NOTEBOOK, 4)
    execute(notebook, NOTEBOOK.parent)
    nbformat.write(notebook, NOTEBOOK)
