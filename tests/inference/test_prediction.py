"""Prediction: what it shows, and that polygons, COCO and Label Studio give the labels back."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

from kseg.data.palette import overlay, palette
from kseg.inference.annotations import brush_rle, label_studio_config
from kseg.inference.prediction import Prediction
from kseg.utils.errors import KsegError

NAMES = ("background", "road", "<car>")


@pytest.fixture
def prediction(rng):
    """Noisy labels: regions with holes, regions within holes, pixels that touch by a corner."""
    labels = (rng.random((23, 31)) * 3).astype("uint8")
    labels[5:15, 4:20] = 1
    labels[7:12, 6:18] = 2
    labels[9, 8:12] = 1
    image = rng.integers(0, 256, (23, 31, 3)).astype("uint8")
    confidence = rng.uniform(0.4, 1, (23, 31)).astype("float32")
    return Prediction(labels, NAMES, image, "photos/a.jpg", confidence)


def filled(polygons, shape):
    """Fills polygons with holes by pixel centres, by counting the edges to the left of each centre."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        crossings = np.zeros(shape, int)
        for ring in (polygon.outer, *polygon.holes):
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
                crosses = (y0 <= y) != (y1 <= y)
                at = x0 + (y - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
                crossings += crosses & (at < x)
        inside |= crossings % 2 == 1
    return inside


def area(ring):
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def test_polygons_give_the_labels_back(prediction):
    shape = prediction.labels.shape
    for value, name in enumerate(NAMES):
        polygons = prediction.polygons(name)
        pixels = prediction.labels == value
        np.testing.assert_array_equal(filled(polygons, shape), pixels)
        rings = [polygon.ring().ravel().tolist() for polygon in polygons]
        np.testing.assert_array_equal(mask.decode(mask.merge(mask.frPyObjects(rings, *shape))), pixels)
        assert sum(polygon.area for polygon in polygons) == pixels.sum()
        for polygon in polygons:
            assert (polygon.class_id, polygon.class_name) == (value, name)
            assert area(polygon.outer) + sum(map(area, polygon.holes)) == area(polygon.ring()) == polygon.area
    assert any(polygon.holes for polygon in prediction.polygons(1))
    assert len(prediction.polygons()) == sum(len(prediction.polygons(value)) for value in range(3))


@pytest.mark.parametrize("seed", range(20))
def test_polygons_of_noise(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random(generator.integers(1, 20, 2)) < generator.random()).astype("uint8")
    found = Prediction(labels, ("a", "b"))
    for value in (0, 1):
        np.testing.assert_array_equal(filled(found.polygons(value), labels.shape), labels == value)


def test_polygons_of_a_square_with_a_hole():
    labels = np.zeros((6, 7), "uint8")
    labels[1:5, 2:6] = 1
    labels[2:4, 3:5] = 0
    [polygon] = Prediction(labels, ("a", "b")).polygons("b")
    assert polygon.outer.tolist() == [[2, 1], [6, 1], [6, 5], [2, 5]]
    assert [hole.tolist() for hole in polygon.holes] == [[[3, 4], [5, 4], [5, 2], [3, 2]]] and polygon.area == 12
    assert polygon.ring().tolist() == [[2, 1], [6, 1], [6, 5], [2, 5], [3, 4], [5, 4], [5, 2], [3, 2], [3, 4], [2, 5]]


def test_small_regions_and_corners_can_be_left_out():
    labels = np.zeros((40, 40), "uint8")
    labels[np.hypot(*(np.mgrid[:40, :40] - 20)) < 15] = 1
    labels[0, 0] = 1
    found = Prediction(labels, ("a", "b"))
    assert len(found.polygons("b")) == 2
    [circle] = found.polygons("b", min_area=2)
    [simple] = found.polygons("b", min_area=2, tolerance=1)
    assert len(simple.outer) < len(circle.outer) / 3 and simple.area == circle.area
    assert abs(area(simple.outer) - circle.area) < 0.05 * circle.area
    with pytest.raises(KsegError, match="no class 'c'"):
        found.polygons("c")
    with pytest.raises(KsegError, match="no class 2; the classes are 0 to 1"):
        found.polygons(2)


@pytest.mark.parametrize("segmentation", ["rle", "polygons"])
def test_coco_annotations_give_the_labels_back(prediction, segmentation, tmp_path):
    entries = prediction.to_coco(image_id=7, segmentation=segmentation)
    height, width = prediction.labels.shape
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(entries, 1)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    coco = COCO(str(tmp_path / "coco.json"))
    labels = np.zeros((height, width), "uint8")
    for entry in coco.loadAnns(coco.getAnnIds(7)):
        pixels = coco.annToMask(entry).astype(bool)
        assert entry["area"] == pixels.sum() and entry["image_id"] == 7 and entry["iscrowd"] == 0
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        left, top, box_width, box_height = entry["bbox"]
        assert (left, top) == (columns[0], rows[0])
        assert (left + box_width, top + box_height) == (columns[-1] + 1, rows[-1] + 1)
        if segmentation == "rle":
            assert entry["score"] == pytest.approx(prediction.confidence[pixels].mean(), abs=1e-6)
        labels[pixels] = entry["category_id"]
    np.testing.assert_array_equal(labels, prediction.labels)


def test_coco_categories_are_the_users(prediction):
    assert {entry["category_id"] for entry in prediction.to_coco(category_ids=[90, None, 7])} == {90, 7}
    with pytest.raises(KsegError, match="category_ids has 2 entries, but there are 3 classes"):
        prediction.to_coco(category_ids=[1, 2])
    with pytest.raises(KsegError, match='must be "rle" or "polygons"'):
        prediction.to_coco(segmentation="masks")


def unpacked(data):
    """Decodes Label Studio's RLE, bit by bit, as its format says."""
    bits = iter("".join(f"{byte:08b}" for byte in data))

    def read(size):
        return int("".join(next(bits) for _ in range(size)), 2)

    count, word, sizes = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values, "uint8")


@pytest.mark.parametrize("shape", [(23, 31), (1, 1), (200, 300), (2, 70000)])
def test_brush_rle_is_what_label_studio_reads(shape, rng):
    for pixels in (rng.random(shape) < 0.1, np.ones(shape, bool), np.zeros(shape, bool), np.arange(shape[1]) % 37 < 20):
        pixels = np.broadcast_to(pixels, shape)
        image = unpacked(brush_rle(pixels)).reshape(*shape, 4)
        np.testing.assert_array_equal(image, np.repeat(pixels[..., None] * 255, 4, -1))


def test_label_studio_tasks(prediction):
    height, width = prediction.labels.shape
    task = json.loads(json.dumps(prediction.to_label_studio()))
    assert task["data"] == {"image": "/data/local-files/?d=photos/a.jpg"}
    [shown] = task["predictions"]
    results = shown["result"]
    labels = np.zeros((height, width), "uint8")
    for result in results:
        assert (result["type"], result["original_width"], result["original_height"]) == ("brushlabels", width, height)
        [name] = result["value"]["brushlabels"]
        labels[unpacked(result["value"]["rle"]).reshape(height, width, 4)[..., 3] > 0] = NAMES.index(name)
    np.testing.assert_array_equal(labels, prediction.labels)
    task = prediction.to_label_studio("https://example.com/a.jpg", kind="polygons")
    assert task["data"] == {"image": "https://example.com/a.jpg"}
    rings: dict[str, list] = {}
    for result in task["predictions"][0]["result"]:
        points = np.array(result["value"]["points"])
        assert points.min() >= 0 and points.max() <= 100
        rings.setdefault(result["value"]["polygonlabels"][0], []).append((points * (width, height) / 100).ravel().tolist())
    assert set(rings) == {"road", "<car>"}
    for name, polygons in rings.items():
        pixels = mask.decode(mask.merge(mask.frPyObjects(polygons, height, width)))
        np.testing.assert_array_equal(pixels, prediction.labels == NAMES.index(name))
    ids = [result["id"] for result in results]
    assert len(set(ids)) == len(ids)
    with pytest.raises(KsegError, match="pass image="):
        Prediction(prediction.labels, NAMES).to_label_studio()
    with pytest.raises(KsegError, match='must be "brush" or "polygons"'):
        prediction.to_label_studio(kind="boxes")


@pytest.mark.parametrize(("kind", "tag"), [("brush", "BrushLabels"), ("polygons", "PolygonLabels")])
def test_the_labelling_interface_names_the_classes(kind, tag):
    view = ElementTree.fromstring(label_studio_config(NAMES, kind))
    labels = view.find(tag)
    assert labels.attrib == {"name": "label", "toName": "image"} and view.find("Image").attrib["name"] == "image"
    assert [label.attrib["value"] for label in labels] == ["road", "<car>"]


def test_overlay_and_legend(prediction):
    shown = prediction.overlay()
    np.testing.assert_array_equal(np.asarray(shown), overlay(prediction.image, prediction.labels))
    np.testing.assert_array_equal(np.asarray(prediction.overlay(alpha=1)), palette(3)[prediction.labels])
    wide = Prediction(np.repeat(prediction.labels, 20, 1), NAMES, np.repeat(prediction.image, 20, 1))
    legend = np.asarray(wide.overlay(legend=True))
    assert legend.shape[1:] == (620, 3) and legend.shape[0] > 23
    colors = {tuple(color) for color in legend[23:].reshape(-1, 3).tolist()}
    assert {tuple(color) for color in palette(3).tolist()} <= colors
    with pytest.raises(KsegError, match="alpha=2"):
        prediction.overlay(alpha=2)
    with pytest.raises(KsegError, match="without its image"):
        Prediction(prediction.labels, NAMES).overlay()


def test_a_notebook_shows_it(prediction):
    html = prediction._repr_html_()
    assert "&lt;car&gt;" in html and "<car>" not in html and "data:image/jpeg;base64," in html
    assert "<script" not in html and "http" not in html
    for share in prediction.shares().values():
        assert f"{share:.1%}" in html
    assert "31x23" in html and "31x23" in repr(prediction)
    assert "<img" not in Prediction(prediction.labels, NAMES)._repr_html_()


def test_shares_are_of_the_pixels(prediction):
    shares = prediction.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares["road"] == (prediction.labels == 1).mean()


def test_save_keeps_every_value(prediction, tmp_path):
    prediction.save(tmp_path / "new/labels.png")
    with Image.open(tmp_path / "new/labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), prediction.labels)
    with pytest.raises(KsegError, match=r"labels.jpg: labels are saved as .png"):
        prediction.save(tmp_path / "labels.jpg")
