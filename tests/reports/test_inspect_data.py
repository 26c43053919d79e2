"""kseg.inspect_data on a data set with one issue of every kind, and on real data with known issues."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from kseg import inspect_data
from kseg.config import DataConfig, InspectConfig
from kseg.data.inspection.class_weights import read_class_weights
from kseg.data.inspection.inspect import inspect
from kseg.utils.errors import KsegError


def square(left, top, side):
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A data set with one issue of every kind; again, leaked and (a little brighter) almost are the image good."""
    folder = tmp_path_factory.mktemp("broken")
    rng = np.random.default_rng(1)
    names = {
        "train": ("good", "other", "again", "black", "empty", "long", "missing", "badrle", "outside"),
        "val": ("leaked", "almost", "new"),
    }
    pictures = {
        split: {f"{name}.png": (20, 200) if name == "long" else (48, 64) for name in some} for split, some in names.items()
    }
    annotated = {
        "good.png": [(1, square(5, 5, 20)), (1, square(15, 15, 20)), (2, square(50, 30, 2))],
        "other.png": [(1, square(3, 9, 12))],
        "again.png": [(1, square(5, 5, 20))],
        "black.png": [(1, square(5, 5, 20))],
        "long.png": [(1, square(100, 2, 15))],
        "missing.png": [(1, square(5, 5, 20))],
        "badrle.png": [(1, {"size": [48, 64], "counts": [1, 2, 3]})],
        "outside.png": [(1, square(55, 5, 20))],
        "leaked.png": [(1, square(5, 5, 20))],
        "almost.png": [(1, square(5, 5, 20))],
        "new.png": [(3, square(5, 5, 20))],
    }
    (folder / "annotations").mkdir()
    first = None
    for split, sizes in pictures.items():
        (folder / "images" / split).mkdir(parents=True)
        images, annotations = [], []
        for number, (name, (height, width)) in enumerate(sizes.items(), 1):
            pixels = rng.integers(0, 255, (height, width, 3)).astype("uint8")
            first = pixels if first is None else first
            pixels = first if name in ("again.png", "leaked.png") else pixels * 0 if name == "black.png" else pixels
            if name == "almost.png":  # stored anew, a little brighter
                pixels = np.clip(first.astype(int) + 2, 0, 255).astype("uint8")
            if name != "missing.png":
                Image.fromarray(pixels).save(folder / "images" / split / name)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for category, segmentation in annotated.get(name, ()):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": category, "segmentation": segmentation}
                )
        categories = [{"id": id_, "name": name} for id_, name in enumerate(("sky", "car", "bus", "car"), 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def flags(folder, output, *more):
    return ["kseg.inspect_data", "--dataset=coco", f"--data_dir={folder}", f"--output={output}", "--image_size=48x64", *more]


def test_every_issue_is_found(broken, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        inspect_data.main(flags(broken, tmp_path))
    assert end.value.code == 1
    content = json.loads((tmp_path / "inspection.json").read_text())
    found = {(d["level"], d["kind"], d["split"], *sorted(d["samples"])) for d in content["issues"]}
    assert found == {
        ("error", "bad sample", "train", "missing.png"),
        ("error", "bad sample", "train", "badrle.png"),
        ("error", "leakage", "val", "leaked.png"),
        ("warning", "near leakage", "val", "almost.png"),
        ("warning", "near duplicates", "val", "almost.png", "leaked.png"),
        ("warning", "data set", "train"),
        ("warning", "only background", "train", "empty.png"),
        ("warning", "constant image", "train", "black.png"),
        ("warning", "extreme shape", "train", "long.png"),
        ("warning", "duplicates", "train", "again.png", "good.png"),
        ("warning", "absent class", "train"),
        ("warning", "absent class", "val"),
        ("warning", "shared name", "train"),
        ("warning", "untrained class", "val"),
        ("note", "tiny regions", "train", "good.png"),
        ("note", "overlaps", "train", "good.png"),
        ("note", "distorted", "train", "long.png"),
        ("note", "rare class", "train"),
    }
    assert all(d["message"] and d["advice"] for d in content["issues"])
    messages = " ".join(d["message"] for d in content["issues"])
    parts = (
        "images/train/missing.png: the file does not exist",
        "annotation 9 (image images/train/badrle.png)",
        "leaked.png is the same image as good.png",
        "class 'bus' occurs here, but not in train",
        "clipped 1 polygon at the image's border (first: annotation 10)",
    )
    for part in parts:
        assert part in messages
    lines = capsys.readouterr().out.splitlines()
    assert "not usable yet" in lines[-2]
    assert lines[-1] == (f"then train on it: python -m kseg.train --dataset=coco --data_dir={broken} --image_size=48x64")


def test_skipped_samples_do_not_spoil_a_data_set(broken):
    config = DataConfig(dataset="coco", data_dir=str(broken), on_bad_sample="skip")
    inspection = inspect(InspectConfig(data=config, splits=("train",)))
    assert inspection.usable
    assert [d.samples for d in inspection.issues if d.kind == "bad sample"] == [("missing.png",), ("badrle.png",)]


def test_a_split_that_cannot_be_read_is_an_error_beside_the_others(tiny_coco, tmp_path):
    shutil.copytree(tiny_coco, tmp_path, dirs_exist_ok=True)
    (tmp_path / "annotations/val.json").write_text("{")
    config = DataConfig(dataset="coco", data_dir=str(tmp_path))
    inspection = inspect(InspectConfig(data=config))
    assert [(d.level, d.split) for d in inspection.issues if d.kind == "split"] == [("error", "val")]
    with pytest.raises(KsegError, match="not valid JSON"):
        inspect(InspectConfig(data=config, splits=("val",)))


def test_page_and_file(tiny_coco, tmp_path, capsys):
    inspect_data.main(flags(tiny_coco, tmp_path, "--samples=3", "--augment=light"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "source  coco: annotations/train.json, images in images/train"
    assert lines[1] == "labels  pixels without annotation = background, 3 red, 5 green, 11 blue"
    assert lines[2] == "skipped nothing"
    assert lines[-2] == f"usable, {tmp_path / 'inspection.html'}"
    assert lines[-1].startswith("train on it: python -m kseg.train --dataset=coco ")
    page = (tmp_path / "inspection.html").read_text()
    assert page.index("How kseg reads the data") < page.index("<h2>Issues</h2>")
    assert (
        len(re.findall(r'<img src="data:image/jpeg;base64,[^"]{500}', page)) == 12
    )  # three overlays; three pictures, three ways
    assert len(re.findall(r'<img class="chart" src="data:image/png', page)) == 2
    assert not re.search(r"https?://|<script", page)
    for name in ("red", "green", "blue", "--augment=light"):
        assert name in page
    weights = read_class_weights(str(tmp_path / "inspection.json"), ("background", "red", "green", "blue"))
    assert weights[0] < weights[1]
    content = json.loads((tmp_path / "inspection.json").read_text())
    train = content["splits"]["train"]
    assert train["images"] == 9
    assert sum(entry["pixels"] for entry in train["classes"]) == train["pixels"] == 5 * 48 * 64 + 4 * 50 * 40
    assert train["sizes"][0] == {"height": 48, "width": 64, "images": 5}


def test_mistakes(tiny_coco, tmp_path):
    (tmp_path / "file").write_text("")
    for more, says in (
        (["--augment=lihgt"], "light"),
        (["--splits=train,train"], "each once"),
        ([f"--output={tmp_path}/file/x"], "cannot be written"),
    ):
        with pytest.raises(KsegError, match=says):
            inspect_data.main(flags(tiny_coco, tmp_path / "out", *more))


@pytest.mark.slow
def test_peculiarities_of_camvid(shared_data):
    config = DataConfig(dataset="coco", data_dir=str(shared_data / "camvid"), background=False, ignore_categories=("unlabelled",))
    inspection = inspect(InspectConfig(data=config, splits=("val",)))
    assert inspection.usable
    by_kind = {issue.kind: issue for issue in inspection.issues}
    assert "1.7% of all pixels are ignored" in by_kind["ignored"].message
    assert len(by_kind["near duplicates"].samples) > 90  # one clip


@pytest.mark.slow
def test_peculiarities_of_the_facades(shared_data):
    config = DataConfig(dataset="coco", data_dir=str(shared_data / "facade"))
    inspection = inspect(InspectConfig(data=config, splits=("val",)))
    kinds = {issue.kind for issue in inspection.issues}
    assert {"absent class", "shared name", "overlaps"} <= kinds
    assert not kinds & {"near duplicates", "duplicates", "ignored", "bad sample"}
