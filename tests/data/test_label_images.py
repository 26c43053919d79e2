"""Label images of every kind of pixel: read exactly, or refused by a line."""

import cv2
import numpy as np
import pytest
from PIL import Image

from kseg.data.dataset import BadSample
from kseg.data.label_images import read_label, read_values, stored_values
from kseg.data.label_map_file import as_label_map
from kseg.utils.errors import KsegError

VALUES = np.array([[0, 1, 2], [2, 7, 1]], np.uint8)
EXPECTED = [[0, 1, 2], [2, 255, 1]]


@pytest.fixture
def label_map():
    return as_label_map({0: "background", 1: "a", 2: "b", 7: "ignore"}, None)


def read(path, label_map, **options):
    return read_label(path, "l", label_map, **options).tolist()


def refused(path, label_map, **options):
    with pytest.raises(BadSample) as error:
        read_label(path, "l", label_map, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", VALUES),
        ("16.png", VALUES.astype(np.uint16)),
        ("16.tif", VALUES.astype(np.uint16)),
        ("32.tif", VALUES.astype(np.int32)),
        ("float.tif", VALUES.astype(np.float32)),
        ("rgb.png", np.stack([VALUES] * 3, -1)),
        ("rgb.bmp", np.stack([VALUES] * 3, -1)),
        ("rgba.png", np.dstack([np.stack([VALUES] * 3, -1), np.full_like(VALUES, 255)])),
    ],
)
def test_values_are_read_as_stored(tmp_path, label_map, name, pixels):
    Image.fromarray(pixels).save(tmp_path / name)
    assert read(tmp_path / name, label_map) == EXPECTED
    assert read_values(tmp_path / name, "l").tolist() == VALUES.tolist()
    assert stored_values(tmp_path / name, "l").tolist() == [0, 1, 2, 7]


def test_values_beside_a_constant_transparency(tmp_path, label_map):
    picture = Image.merge("LA", [Image.fromarray(VALUES), Image.fromarray(np.full_like(VALUES, 255))])
    picture.save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", label_map) == EXPECTED


def test_transparency_that_differs_is_refused(tmp_path, label_map):
    """Such a mask may have its class in the transparency."""
    Image.fromarray(np.dstack([np.zeros((2, 3, 3), np.uint8), VALUES])).save(tmp_path / "a.png")
    assert "its transparency differs from pixel to pixel" in refused(tmp_path / "a.png", label_map)


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (-1, "-1"), (70000, "70000"), (float("nan"), "nan")])
def test_values_that_are_no_values(tmp_path, label_map, value, shown):
    pixels = VALUES.astype(np.float32)
    pixels[1, 2] = value
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    message = refused(tmp_path / "a.tif", label_map)
    assert f"row 1, column 2 has the value {shown}" in message
    assert "--label_threshold" in message


@pytest.mark.parametrize("suffix", ["jpg", "webp", "jp2"])
def test_lossy_files_are_refused_with_the_way_out(tmp_path, label_map, suffix):
    Image.fromarray(VALUES).save(tmp_path / f"a.{suffix}")
    assert "whose compression changes values; save label images as PNG" in refused(tmp_path / f"a.{suffix}", label_map)


def test_16_bits_per_channel_and_several_pages_are_refused(tmp_path, label_map):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((2, 3, 3), 4000, np.uint16))
    assert "has 16 bits per channel" in refused(tmp_path / "a.png", label_map)
    Image.fromarray(VALUES).save(tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(VALUES)])
    assert "has 2 pages" in refused(tmp_path / "b.tif", label_map)


SOFT = np.array([[0, 3, 127], [128, 250, 255]], np.uint8)
HARD = [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("names", [{0: "background", 1: "fg"}, {0: "background", 255: "fg"}, {255: "fg", 0: "background"}])
def test_a_threshold_makes_two_classes_of_soft_edges(tmp_path, names):
    label_map = as_label_map(names, None)
    background, fg = (label_map.class_names.index(name) for name in ("background", "fg"))
    expected = np.where(HARD, fg, background).tolist()
    for name, pixels in (("g.png", SOFT), ("rgb.png", np.stack([SOFT] * 3, -1)), ("16.png", SOFT.astype(np.uint16))):
        Image.fromarray(pixels).save(tmp_path / name)
        assert read(tmp_path / name, label_map, threshold=128) == expected
    Image.fromarray(SOFT / np.float32(255)).save(tmp_path / "f.tif")
    assert read(tmp_path / "f.tif", label_map, threshold=0.5) == expected
    large = np.repeat(np.repeat(SOFT, 16, 0), 16, 1)
    Image.fromarray(large).save(tmp_path / "a.jpg", quality=95)
    assert (np.array(read(tmp_path / "a.jpg", label_map, threshold=64))[0, [0, 47]] == [background, fg]).all()


def test_a_threshold_needs_two_values(label_map):
    with pytest.raises(KsegError, match="--label_threshold: label_map names 3 values; it must name two"):
        label_map.binary()
    assert as_label_map({0: "background", 255: "fg", 7: "ignore"}, None).binary() == (0, 1)
