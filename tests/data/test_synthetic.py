"""The synthetic data set: equal bytes every time, labels that fit the image, every class present, a safe cache."""

import hashlib
import importlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from kseg.data.check import check_samples
from kseg.data.sources.coco import CocoDataset
from kseg.data.sources.synthetic.dataset import load_synthetic, synthetic_coco
from kseg.data.sources.synthetic.objects import KINDS
from kseg.data.sources.synthetic.scene import draw_scene
from kseg.utils.errors import KsegError

synthetic = importlib.import_module("kseg.data.sources.synthetic.dataset")  # kseg.data has a function of the same name.
SMALL = {"train": 3, "val": 2, "size": 64}
CLASS_NAMES = (
    "background",
    "UNKNOWN",
    "General trash",
    "Paper",
    "Paper pack",
    "Metal",
    "Glass",
    "Plastic",
    "Styrofoam",
    "Plastic bag",
    "Battery",
    "Clothing",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic_coco(tmp_path_factory.mktemp("cache"), train=40, val=30, size=128)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("split", "images"), [("train", 40), ("val", 30)])
def test_it_is_a_clean_coco_data_set_of_twelve_classes(folder, split, images):
    dataset = CocoDataset(folder, split)
    assert dataset.class_names == CLASS_NAMES
    assert len(dataset) == images
    assert dataset.warnings == ()
    assert check_samples(dataset)[1] == []
    assert {dataset.size(i) for i in range(images)} == {(128, 128)}
    counts = sum(np.bincount(dataset.load(i).label.ravel(), minlength=256) for i in range(images))
    assert counts[12:].sum() == 0
    assert (counts[1:12] / counts.sum() > 0.015).all()
    assert 0.4 < counts[0] / counts.sum() < 0.75


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_file_says_what_it_is_and_mixes_all_kinds_of_segmentation(folder, split):
    content = json.loads((folder / f"annotations/{split}.json").read_text())
    assert "no benchmark" in content["info"]["description"]
    kinds = Counter()
    for annotation in content["annotations"]:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            kinds[type(segmentation["counts"]).__name__] += 1
        else:
            kinds["polygon" if len(segmentation) == 1 else "polygons"] += 1
            assert min(map(min, segmentation)) >= 0
            assert max(map(max, segmentation)) <= 128
    assert min(kinds[kind] for kind in ("str", "list", "polygon", "polygons")) >= 3
    per_image = Counter(annotation["image_id"] for annotation in content["annotations"])
    assert min(per_image.values()) >= 3
    assert max(per_image.values()) <= 9


def test_area_and_bbox_are_the_masks(folder):
    """An object alone in its image paints exactly the pixels that its annotation states."""
    content = json.loads((folder / "annotations/val.json").read_text())
    for number, annotation in enumerate(content["annotations"][:40]):
        alone = folder.parent / f"alone{number}.json"
        image = content["images"][annotation["image_id"] - 1]
        alone.write_text(json.dumps({**content, "images": [image], "annotations": [annotation]}))
        label = CocoDataset(folder, "val", annotations=str(alone)).load(0).label
        assert (label == annotation["category_id"]).sum() == annotation["area"]
        rows, columns = np.nonzero(label)
        box = [columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1]
        assert annotation["bbox"] == box


def test_the_label_map_is_what_was_drawn(tmp_path):
    """The drawing keeps its own map of what it painted, at four times the resolution and without pycocotools."""
    (tmp_path / "images").mkdir()
    images, annotations, drawn = [], [], []
    for number in range(12):
        generator = np.random.default_rng(number)
        scene = draw_scene(generator, 256, generator.integers(0, len(KINDS), 8).tolist())
        assert (scene.image.shape, scene.image.dtype) == ((256, 256, 3), np.uint8)
        Image.fromarray(scene.image).save(tmp_path / f"images/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 256, "height": 256})
        annotations += [{"id": len(annotations) + i, "image_id": number, **entry} for i, entry in enumerate(scene.annotations)]
        drawn.append(scene.kinds)
    categories = [{"id": 1 + i, "name": kind.name} for i, kind in enumerate(KINDS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path, "x", annotations="a.json", images="images")
    for number in range(12):
        label = dataset.load(number).label
        assert (label != drawn[number]).mean() < 0.01
        inner = np.ones(
            (256, 256), bool
        )  # Away from outlines, where two rasterisers may differ by a pixel, there is no difference.
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            inner &= np.roll(drawn[number], step, axis) == drawn[number]
            inner &= np.roll(label, step, axis) == label
        assert (label == drawn[number])[inner].all()


def test_an_image_shows_its_labels(folder):
    """Metal is grey, Plastic is not: the classes' mean saturation tells that image and label belong together."""
    dataset = CocoDataset(folder, "val")
    saturation = {"Metal": [], "Plastic": [], "Paper": [], "Battery": []}
    brightness = {name: [] for name in saturation}
    for i in range(len(dataset)):
        sample = dataset.load(i)
        for name in saturation:
            pixels = sample.image[sample.label == CLASS_NAMES.index(name)].astype(float)
            saturation[name].append((pixels.max(axis=1) - pixels.min(axis=1)) / (1 + pixels.max(axis=1)))
            brightness[name].append(pixels.max(axis=1))
    saturation = {name: np.concatenate(values).mean() for name, values in saturation.items()}
    brightness = {name: np.concatenate(values).mean() for name, values in brightness.items()}
    assert saturation["Plastic"] > 2 * saturation["Metal"]
    assert brightness["Paper"] > 1.4 * brightness["Battery"]


def test_the_same_bytes_on_every_run_and_others_for_another_seed(tmp_path):
    first = synthetic_coco(tmp_path / "a", **SMALL)
    assert digest(first) == digest(synthetic_coco(tmp_path / "b", **SMALL))
    other = synthetic_coco(tmp_path / "a", **SMALL, seed=1)
    assert other != first
    assert digest(other)["images/train/000001.jpg"] != digest(first)["images/train/000001.jpg"]
    splits = digest(first)
    assert len(set(splits.values())) == len(splits) == 7


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = (digest(synthetic_coco(tmp_path, **{**SMALL, "train": count})) for count in (2, 4))
    assert {name: few[name] for name in few if "images" in name}.items() <= many.items()


def test_it_is_drawn_once(tmp_path, monkeypatch):
    folder = synthetic_coco(tmp_path, **SMALL)
    monkeypatch.setattr(synthetic, "_draw", lambda *_: pytest.fail("drawn again"))
    assert synthetic_coco(tmp_path, **SMALL) == folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KSEG_CACHE", raising=False)
    assert synthetic_coco(**SMALL).parent == tmp_path / "home/.cache/kseg"
    monkeypatch.setenv("KSEG_CACHE", str(tmp_path / "variable"))
    assert synthetic_coco(**SMALL).parent == tmp_path / "variable"
    assert synthetic_coco(str(tmp_path / "argument"), **SMALL).parent == tmp_path / "argument"


def test_a_drawing_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder, counts, size, seed):
        (folder / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_draw", fail)
    with pytest.raises(KeyboardInterrupt):
        synthetic_coco(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_threads_and_processes_that_draw_at_once_get_the_same_complete_folder(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: synthetic_coco(tmp_path / "threads", **SMALL), range(4)))
    assert len(folders) == 1
    context = get_context("spawn")
    processes = [context.Process(target=synthetic_coco, args=(tmp_path / "processes",), kwargs=SMALL) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    found = synthetic_coco(tmp_path / "processes", **SMALL)
    assert digest(found) == digest(folders.pop())
    for cache in ("threads", "processes"):
        assert [path.name for path in (tmp_path / cache).iterdir()] == [found.name]


def test_load_synthetic(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.synthetic_coco, "__kwdefaults__", {**SMALL, "seed": 0})
    train, val = load_synthetic("train", tmp_path), load_synthetic("val", tmp_path)
    assert (len(train), len(val)) == (3, 2)
    assert train.class_names == val.class_names == CLASS_NAMES
    with pytest.raises(KsegError, match=r"^the synthetic data set has no split 'test'; choose train or val\.$"):
        load_synthetic("test", tmp_path)


@pytest.mark.parametrize("change", [{"train": 0}, {"val": 0}, {"size": 63}, {"seed": -1}])
def test_arguments_out_of_range(tmp_path, change):
    with pytest.raises(KsegError, match="train, val >= 1, size >= 64"):
        synthetic_coco(tmp_path, **{**SMALL, **change})


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(KsegError, match=r"^cannot write the synthetic data set .*; set KSEG_CACHE to a folder\.$"):
        synthetic_coco(tmp_path / "file", **SMALL)
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(KsegError, match=r"Permission denied"):
            synthetic_coco(tmp_path / "locked", **SMALL)
