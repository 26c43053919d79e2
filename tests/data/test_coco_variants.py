"""COCO files as tools write them: ids, numbers, names and pieces that need no refusal, and files of other kinds."""

import json

import numpy as np
import pytest
from PIL import Image

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.check import open_split
from kseg.data.dataset import BadSample
from kseg.data.sources.coco import CocoDataset
from kseg.utils.errors import KsegError

HEIGHT, WIDTH = 6, 8
BOX = [[1, 1, 4, 1, 4, 3, 1, 3]]
LABEL = np.zeros((HEIGHT, WIDTH), np.uint8)
LABEL[1:3, 1:4] = 1  # BOX


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images/train/sub").mkdir(parents=True, exist_ok=True)
        for path in (f"{name}.png", f"sub/{name}.png"):
            Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "images/train" / path)
    (tmp_path / "annotations").mkdir()
    return tmp_path


def image(id_, name="a.png", **more):
    return {"id": id_, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}


def entry(id_, image_id, category_id=1, segmentation=BOX, **more):
    return {"id": id_, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, **more}


def build(folder, content, **options):
    (folder / "annotations/train.json").write_text(json.dumps(content))
    return CocoDataset(folder, "train", **options)


def coco(images=None, annotations=None, categories=None):
    return {
        "images": images or [image(1), image(2, "b.png")],
        "annotations": annotations or [entry(1, 1)],
        "categories": categories or [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }


def test_annotation_ids_that_repeat_or_are_missing(folder):
    second = {key: value for key, value in entry(0, 2).items() if key != "id"}
    data = build(folder, coco(annotations=[entry(5, 1), entry(5, 1, 2, [[5, 1, 7, 1, 7, 3, 5, 3]]), second]))
    expected = LABEL.copy()
    expected[1:3, 5:7] = 2
    assert data.load(0).label.tolist() == expected.tolist()
    assert data.load(1).label.tolist() == LABEL.tolist()
    assert data.warnings == ("annotations/train.json: 2 annotations have no id, or one that another has; none is needed.",)


def test_annotations_of_images_that_are_not_listed(folder):
    data = build(folder, coco(annotations=[entry(1, 1), entry(7, 99), entry(8, "c")]))
    assert data.load(0).label.tolist() == LABEL.tolist()
    (warning,) = data.warnings
    assert "left out 2 annotations of images that it does not list (first: annotation 7)" in warning
    assert data.reading.left_out == data.warnings


@pytest.mark.parametrize(
    ("image_id", "reference", "category", "named"),
    [("1", 1, "1", 1), ("one", "one", "x-id", "x-id"), (1.0, "1", 1.0, "1"), ("007", "007", 1, 1.0), (10**15, 1e15, 1, 1)],
)
def test_ids_as_strings_and_floats(folder, image_id, reference, category, named):
    data = build(folder, coco([image(image_id)], [entry("a-1", reference, named)], [{"id": category, "name": "x"}]))
    assert data.load(0).label.tolist() == LABEL.tolist()
    assert data.class_names == ("background", "x")
    categories = [{"id": category, "name": "x"}, {"id": 9, "name": "y"}]
    content = coco([image(image_id)], [entry("a-1", reference, named)], categories)
    assert build(folder, content, ignore_categories=(str(data.category_ids[1]),)).load(0).label[1, 1] == 255


def test_ids_that_only_look_the_same(folder):
    data = build(folder, coco([image("007"), image(7, "b.png")], [entry(1, "007")]))
    assert (data.load(0).label == LABEL).all()
    assert not data.load(1).label.any()


def test_whole_numbers_as_floats(folder):
    runs = {"size": [6.0, 8.0], "counts": [7.0, 2.0, 39.0]}
    data = build(folder, coco([image(1.0, width=8.0, height=6.0)], [entry(1.0, 1.0, 1.0, runs)], [{"id": 1.0, "name": "x"}]))
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 1] = 1  # column by column: 7 pixels without, 2 with
    assert data.load(0).label.tolist() == expected.tolist()
    with pytest.raises(KsegError, match='image 1 has no "width" that is an integer'):
        build(folder, coco([image(1, width=8.5)]))


def test_an_image_or_a_category_that_is_listed_twice(folder):
    data = build(folder, coco([image(1), image(1)], categories=[{"id": 1, "name": "x"}] * 2))
    assert len(data) == 1
    assert data.warnings == ("annotations/train.json: 1 images are listed twice, and read once.",)


def test_backslashes_in_file_names(folder):
    data = build(folder, coco([image(1, "sub\\b.png"), image(2, "a.png")]))
    assert data.load(0).name == "sub/b.png"
    assert (data.load(0).label == LABEL).all()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 9, np.uint8)).save(folder / "images/train/sub\\b.png")  # such a name is possible
    assert (build(folder, coco([image(1, "sub\\b.png")])).load(0).image == 9).all()
    for name in ("..\\..\\secret.png", "C:\\data\\a.png"):
        with pytest.raises(BadSample, match="leads out of its folder"):
            build(folder, coco([image(1, name), image(2)])).load(0)


def test_ids_that_cannot_be_printed(folder):
    data = build(folder, coco([image("a\nb", "..")], [entry("c\nd", "a\nb", "e\nf")]))
    with pytest.raises(BadSample, match=r"image 'a\\nb' has the file_name \.\., which leads out") as error:
        data.load(0)
    assert "\n" not in str(error.value)
    with pytest.raises(BadSample, match=r"annotation 'c\\nd' names category 'e\\nf'"):
        build(folder, coco([image(1)], [entry("c\nd", 1, "e\nf")])).load(0)


def test_backslashes_in_patterns(folder):
    build(folder, coco())
    data = CocoDataset(folder, "train", annotations="annotations\\{split}.json", images="images\\{split}")
    assert (data.load(0).label == LABEL).all()


def test_pieces_that_cover_nothing_are_left_out_and_counted(folder):
    nothing = [
        entry(3, 1, segmentation=[]),
        entry(4, 1, segmentation=None),
        entry(5, 1, segmentation=[[]]),
        entry(6, 1, segmentation=[[1, 1, 4, 4]]),
        {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]},
        entry(8, 2, segmentation=[[], BOX[0], [2, 2]]),
    ]
    data = build(folder, coco(annotations=[entry(1, 1), *nothing]))
    assert data.load(0).label.tolist() == LABEL.tolist()
    assert data.load(1).label.tolist() == LABEL.tolist()
    (warning,) = data.warnings
    assert "left out 7 annotations or part of one that covers nothing (first: annotation 3 (image images/train/a.png)" in warning
    assert len(data.left_out) == 7
    assert data.left_out[-1] == (
        "annotations/train.json: annotation 8 (image images/train/b.png): polygon 2 of its segmentation has 2 coordinates; "
        "3 points need 6."
    )
    strict = build(folder, coco(annotations=[entry(1, 1), *nothing]), on_bad_annotation="error")
    with pytest.raises(BadSample, match=r"annotation 3 \(image images/train/a.png\): its segmentation is empty"):
        strict.load(0)


def test_malformed_annotations_still_make_a_bad_sample(folder):
    with pytest.raises(BadSample, match=r"annotation 2 .* odd number of coordinates, 7"):
        build(folder, coco(annotations=[entry(1, 1), entry(2, 1, segmentation=[[1, 1, 4, 1, 4, 3, 1]])])).load(0)


def test_flags_reach_the_data_set(folder):
    build(folder, coco(annotations=[entry(1, 1), entry(2, 1, segmentation=[])]))
    config = DataConfig(dataset="coco", data_dir=str(folder))
    assert open_split(config, "train")[1] == []
    strict = DataConfig(dataset="coco", data_dir=str(folder), on_bad_annotation="error", on_bad_sample="skip")
    assert [line[:36] for line in open_split(strict, "train")[1]] == ["annotations/train.json: annotation 2"]


KINDS = {
    "boxes": (coco(annotations=[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3]}]), "has boxes only"),
    "boxes with []": (coco(annotations=[entry(1, 1, segmentation=[], bbox=[0, 0, 3, 3])]), "has boxes only"),
    "keypoints": (
        coco(annotations=[{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2], "bbox": [0, 0, 3, 3]}]),
        "is a COCO file of keypoints",
    ),
    "panoptic": (
        coco(annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 9, "category_id": 1}]}]),
        "is a panoptic COCO file",
    ),
    "captions": ({"images": [image(1)], "annotations": [{"image_id": 1, "id": 1, "caption": "a"}]}, "is a COCO file of captions"),
    "results": ([{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": BOX}], "is a list of COCO results"),
    "Label Studio": ([{"id": 1, "data": {"image": "a"}, "annotations": []}], "is Label Studio's JSON"),
    "CreateML": ([{"image": "a.jpg", "annotations": []}], "is CreateML's JSON"),
    "Labelbox": ([{"data_row": {"id": "x"}}], "is Labelbox's JSON"),
    "labelme": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "is labelme's file of one image"),
    "VIA project": ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
    "VIA": ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "VGG Image Annotator"),
    "Supervisely": ({"description": "", "tags": [], "size": {"height": 1, "width": 2}, "objects": []}, "is Supervisely's file"),
    "Datumaro": ({"info": {}, "categories": {"label": {}}, "items": []}, "is Datumaro's JSON"),
    "Darwin": ({"version": "2.0", "item": {}, "annotations": []}, "is V7 Darwin's file"),
    "videos": ({"videos": [], "annotations": [], "categories": []}, "has annotations of videos"),
    "other": ({"a": 1}, "is not in COCO format"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_named(folder, kind):
    content, reason = KINDS[kind]
    with pytest.raises(KsegError) as error:
        build(folder, content)
    assert str(error.value).startswith("annotations/train.json: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_keypoints_with_masks_are_read(folder):
    data = build(folder, coco(annotations=[entry(1, 1, keypoints=[1, 2, 2])]))
    assert data.load(0).label.tolist() == LABEL.tolist()


def test_a_test_split_without_annotations(folder):
    data = build(folder, {"images": [image(1)], "categories": [{"id": 1, "name": "x"}]})
    assert not data.labelled
    with pytest.raises(KsegError, match="has no annotations, so it can neither train"):
        open_split(DataConfig(dataset="coco", data_dir=str(folder)), "train")


def test_ignored_classes_by_the_name_that_kseg_shows(folder):
    """Advice to leave out a class that shares its name, followed literally."""
    categories = [{"id": 0, "name": "x"}, {"id": 1, "name": "x"}]
    data = build(folder, coco(categories=categories))
    assert data.class_names == ("background", "x [0]", "x [1]")
    left = build(folder, coco(categories=categories), ignore_categories=("x [0]",))
    assert left.class_names == ("background", "x")
    assert left.load(0).label.tolist() == LABEL.tolist()
    with pytest.raises(KsegError, match=r"--ignore_categories=background: .* pass --nobackground"):
        build(folder, coco(), ignore_categories=("background",))


def test_links_to_pictures_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "images/train/a.png").rename(elsewhere / "a.png")
    (folder / "images/train/a.png").symlink_to(elsewhere / "a.png")
    build(folder, coco())
    config = DataConfig(dataset="coco", data_dir=str(folder))
    with pytest.raises(KsegError, match="leaves the data set's folder; --follow_links reads it"):
        open_split(config, "train")
    data = build_dataset(DataConfig(dataset="coco", data_dir=str(folder), follow_links=True), "train")
    assert data.load(0).label.tolist() == LABEL.tolist()
