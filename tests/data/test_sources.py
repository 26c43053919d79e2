"""Data sources in general: new files are found, and nothing heavy is imported before a source is opened."""

import subprocess
import sys

import pytest

from kseg.config import DataConfig
from kseg.data import DATASETS, Dataset, build_dataset, sources
from kseg.utils.errors import KsegError
from kseg.utils.registry import import_modules

TOY = """
import numpy as np

from kseg.data.dataset import Sample
from kseg.data.registry import register_dataset


class Toy:
    class_names, ignore_index = ("sky", "road"), 255

    def __len__(self):
        return 4

    def name(self, index):
        return f"toy{index}"

    def size(self, index):
        return 4, 5

    def load(self, index):
        return Sample(np.full((4, 5, 3), index, "uint8"), np.full((4, 5), index % 2, "uint8"), self.name(index))


@register_dataset("toy")
def open_toy(config, split):
    return Toy()
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A source in its own file, as if it were in kseg/data/sources."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    import_modules("kseg.data.sources")
    yield str(tmp_path)
    del DATASETS._entries["toy"], sys.modules["kseg.data.sources.toy"]


def test_a_file_of_the_folder_is_a_source(toy):
    dataset = build_dataset(DataConfig(dataset="toy", data_dir=toy), "train")
    assert isinstance(dataset, Dataset)
    assert (dataset.load(3).image == 3).all()
    half = build_dataset(DataConfig(dataset="toy", data_dir=toy, val_fraction=0.5), "train@val")
    assert all(half.load(index).label.max() <= 1 for index in range(2))
    assert len(half) == 2


def test_a_source_without_separate_labels_has_no_cache(toy):
    with pytest.raises(KsegError, match=r"--cache=memory: .*toy.*--cache=none"):
        build_dataset(DataConfig(dataset="toy", data_dir=toy, cache="memory"), "train")


def test_an_unknown_source_names_those_there_are():
    with pytest.raises(KsegError, match=r"'foldr'; did you mean folder\?"):
        build_dataset(DataConfig(dataset="foldr", data_dir="x"), "train")


def test_nothing_heavy_is_imported_with_the_package():
    heavy = "{'tensorflow', 'tensorflow_datasets', 'pycocotools', 'cv2', 'PIL', 'albumentations', 'keras', 'jax'}"
    script = f"import sys, kseg.data; print(*{heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""
