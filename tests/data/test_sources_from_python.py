"""Data sources built in Python: without a split, with class names instead of a file."""

import json

import numpy as np
import pytest
from PIL import Image

from kseg.data.label_map import check_class_names
from kseg.data.sources.coco import CocoDataset
from kseg.data.sources.folder import FolderDataset
from kseg.utils.errors import KsegError

LABEL = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two pictures in images/ and labels/, and again in images/train and labels/train."""
    for part in ("", "train/"):
        for name in ("a", "b"):
            for kind, pixels in (("images", np.full((2, 3, 3), 90, np.uint8)), ("labels", LABEL)):
                path = tmp_path / f"{kind}/{part}{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path


def test_a_folder_with_class_names(folder):
    data = FolderDataset(folder, "train", class_names=["road", "car", "tree"])
    assert data.class_names == ("road", "car", "tree")
    assert [data.name(i) for i in range(len(data))] == ["images/train/a.png", "images/train/b.png"]
    assert data.load(0).label.tolist() == LABEL.tolist()


def test_a_folder_without_a_split(folder, tmp_path):
    for kind in ("images", "labels"):  # a folder beside the pictures would be searched, too
        (folder / kind / "train").rename(folder / f"{kind}_train")
    data = FolderDataset(folder, label_map={0: "road", 1: "ignore", 2: "road"})
    assert (len(data), data.class_names) == (2, ("road",))
    assert data.load(1).label.tolist() == [[0, 255, 0], [0, 255, 255]]
    (tmp_path / "names.txt").write_text("road\ncar\n")
    assert FolderDataset(folder, label_map=tmp_path / "names.txt").class_names == ("road", "car")
    with pytest.raises(KsegError, match=r"images={split}: needs a split; pass split='train'"):
        FolderDataset(folder, class_names=["a"], images="{split}")


def test_coco_without_a_split(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images/a.png")
    image = {"id": 1, "file_name": "a.png", "height": 4, "width": 4}
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[0, 0, 4, 0, 4, 2, 0, 2]]}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 7, "name": "car"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    data = CocoDataset(tmp_path)
    assert data.class_names == ("background", "car")
    assert data.load(0).label[:, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "the classes have no names: class_names="),
        ({"class_names": ["a"], "label_map": {0: "a"}}, "both label_map and class_names are given"),
        ({"class_names": ["a", "b", "a"]}, "'a' occurs twice"),
        ({"class_names": "road"}, r"is one string; pass a list of names, such as \['road'\]"),
        ({"class_names": ["a", 3]}, "3 is not a name"),
        ({"class_names": []}, "has 0 names"),
        ({"label_map": {"x": "a"}}, "'x' is not a label value"),
        ({"label_map": "missing.yaml"}, "missing.yaml: cannot be read"),
    ],
)
def test_mistakes(folder, given, says):
    with pytest.raises(KsegError, match=says):
        FolderDataset(folder, "train", **given)


def test_class_names():
    assert check_class_names(["road", "car"]) == ("road", "car")
    with pytest.raises(KsegError, match="1 to 255"):
        check_class_names([str(number) for number in range(256)])
