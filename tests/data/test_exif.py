"""Images that a camera turned: the label lies on the picture in every case that can be known, and the others are named."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.check import open_split
from kseg.data.dataset import BadSample
from kseg.data.sources.coco import CocoDataset
from kseg.data.sources.image_files import ImageFile, ImageFiles

HEIGHT, WIDTH = 6, 10  # as stored
UPRIGHT = np.zeros((WIDTH, HEIGHT, 3), np.uint8)  # as viewers show it, of orientation 6
UPRIGHT[6:9, 1:4] = 200  # the object: below the stored height of 6
TALL = [[1, 6, 4, 6, 4, 9, 1, 9]]  # the object in the upright picture
SMALL = [[1, 1, 3, 1, 3, 4, 1, 4]]  # fits both frames


@pytest.fixture
def folder(tmp_path):
    """A photo a.png of orientation 6, stored lying."""
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(UPRIGHT, 1).copy()).save(tmp_path / "images/train/a.png", exif=exif)
    stored = Image.open(tmp_path / "images/train/a.png")
    assert stored.size == (WIDTH, HEIGHT)
    assert (np.array(ImageOps.exif_transpose(stored)) == UPRIGHT).all()
    stored.close()
    return tmp_path


def build(folder, width, height, *segmentations, **options):
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": segmentation}
        for number, segmentation in enumerate(segmentations)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}],
    }
    (folder / "annotations/train.json").write_text(json.dumps(content))
    return CocoDataset(folder, "train", **options)


def matches(data):
    """The label lies on the object, in the upright picture."""
    sample = data.load(0)
    return (
        sample.image.shape == UPRIGHT.shape
        and data.size(0) == UPRIGHT.shape[:2]
        and (sample.image == UPRIGHT).all()
        and (sample.label == (UPRIGHT[..., 0] > 0)).all()
    )


def test_stored_size_and_polygons_in_the_turned_frame(folder):
    data = build(folder, WIDTH, HEIGHT, TALL)
    assert matches(data)
    (warning,) = data.warnings
    assert "states the width and height of 1 image the other way round than the polygons lie" in warning
    assert "images/train/a.png" in warning
    assert matches(build(folder, WIDTH, HEIGHT, TALL, [[1, 6, 4, 6, 4, 9, 1, 9]]))


def test_upright_size_and_polygons(folder):
    data = build(folder, HEIGHT, WIDTH, TALL)
    assert matches(data)
    assert data.warnings == ()
    assert data.notes(0) == []


def test_upright_size_and_polygons_in_the_stored_frame(folder):
    lying = [[6, 2, 9, 2, 9, 5, 6, 5]]  # TALL, as stored
    sample = build(folder, HEIGHT, WIDTH, lying).load(0)
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert (sample.label == (sample.image[..., 0] > 0)).all()


def test_an_rle_states_its_frame(folder):
    mask = (UPRIGHT[..., 0] > 0).astype(np.uint8)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    data = build(folder, WIDTH, HEIGHT, {"size": [WIDTH, HEIGHT], "counts": counts})
    assert matches(data)


def test_where_the_frame_cannot_be_known_the_images_are_named_and_the_flag_decides(folder, capsys):
    data = build(folder, WIDTH, HEIGHT, SMALL)
    assert data.load(0).image.shape == (HEIGHT, WIDTH, 3)  # as the file states
    config = DataConfig(dataset="coco", data_dir=str(folder))
    open_split(config, "train")
    error = capsys.readouterr().err
    assert "1 image (a.png): the EXIF orientation is not applied" in error
    assert "--exif=apply turns the images" in error
    label = build(folder, WIDTH, HEIGHT, SMALL, exif="apply").load(0)
    assert (label.image == UPRIGHT).all()
    assert label.label[1:4, 1:3].all() and label.label.sum() == 6
    open_split(DataConfig(dataset="coco", data_dir=str(folder), exif="apply"), "train")
    assert "EXIF" not in capsys.readouterr().err


def test_the_flag_in_every_case(folder):
    assert matches(build(folder, WIDTH, HEIGHT, TALL, exif="apply"))
    assert matches(build(folder, HEIGHT, WIDTH, TALL, exif="apply"))
    for width, height in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        data = build(folder, width, height, SMALL, exif="ignore")
        assert data.load(0).image.shape == (HEIGHT, WIDTH, 3)
        assert data.load(0).label.shape == data.size(0) == (HEIGHT, WIDTH)


def test_an_image_without_orientation_stays_and_its_polygons_are_clipped(folder):
    Image.fromarray(np.rot90(UPRIGHT, 1).copy()).save(folder / "images/train/a.png")
    data = build(folder, WIDTH, HEIGHT, TALL)
    assert data.load(0).image.shape == (HEIGHT, WIDTH, 3)
    assert "clipped 1 polygon" in data.warnings[0]


def test_width_and_height_that_are_swapped_in_the_file(folder):
    Image.fromarray(UPRIGHT).save(folder / "images/train/a.png")
    assert matches(build(folder, WIDTH, HEIGHT, TALL))
    with pytest.raises(BadSample, match="the image is 6x10"):
        build(folder, WIDTH, HEIGHT, SMALL).load(0)


def test_polygons_that_leave_both_frames_are_clipped_in_the_stated_one(folder):
    data = build(folder, WIDTH, HEIGHT, TALL, [[1, 1, 9, 1, 9, 3, 1, 3]])
    assert data.size(0) == (HEIGHT, WIDTH)
    assert "clipped 1 polygon" in data.warnings[0]


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_a_square_or_mirrored_picture_is_turned_as_viewers_show_it_and_named(folder, orientation, capsys):
    side = 6 if orientation == 6 else WIDTH
    pixels = np.arange(HEIGHT * side * 3, dtype=np.uint8).reshape(HEIGHT, side, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "images/train/a.png", exif=exif)
    with Image.open(folder / "images/train/a.png") as stored:
        expected = np.array(ImageOps.exif_transpose(stored))
    assert (build(folder, side, HEIGHT, SMALL).load(0).image == expected).all()
    config = DataConfig(dataset="coco", data_dir=str(folder))
    open_split(config, "train")
    assert "1 image (a.png): the EXIF orientation fits the label both ways" in capsys.readouterr().err
    assert (build(folder, side, HEIGHT, SMALL, exif="ignore").load(0).image == pixels).all()


def test_label_images_state_the_frame(folder, capsys):
    (folder / "labels/train").mkdir(parents=True)
    (folder / "map.yaml").write_text("0: background\n1: x\n")
    config = DataConfig(dataset="folder", data_dir=str(folder), label_map=str(folder / "map.yaml"))
    upright = (UPRIGHT[..., 0] > 0).astype(np.uint8)
    for label in (upright, np.rot90(upright, 1)):
        Image.fromarray(label.copy()).save(folder / "labels/train/a.png")
        sample = build_dataset(config, "train").load(0)
        assert (sample.label == label).all()
        assert (sample.label == (sample.image[..., 0] > 0)).all()
        open_split(config, "train")
    assert "EXIF" not in capsys.readouterr().err


def test_pictures_to_predict_are_turned(folder):
    files = [ImageFile(folder / "images/train/a.png", "a.png")]
    upright = ImageFiles(files, ("x",))
    assert (upright.load(0).image == UPRIGHT).all()
    assert upright.size(0) == UPRIGHT.shape[:2]
    stored = ImageFiles(files, ("x",), exif="ignore")
    assert stored.size(0) == stored.load(0).image.shape[:2] == (HEIGHT, WIDTH)
