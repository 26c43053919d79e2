"""Bits, bands and pages: what is not read is refused or said, in training and in prediction."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from kseg.data.check import check_samples
from kseg.data.dataset import BadSample
from kseg.data.image_checks import EXTRA_BANDS
from kseg.data.image_io import image_pixels, read_image
from kseg.data.sources.folder import FolderDataset
from kseg.data.sources.image_files import ImageFiles, find_images
from kseg.inference.pictures import read_pictures

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (64, 70, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (64, 70, 3), dtype=np.uint16)  # 12 bits in 16


def refused(path):
    with pytest.raises(BadSample) as error:
        read_image(path, "a")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm", "a.jp2"])
@pytest.mark.parametrize("bands", [3, 4])
def test_16_bits_per_channel_are_refused(tmp_path, name, bands):
    """Pillow would keep the upper 8 bits: of 12-bit values 0 to 15."""
    if bands == 4 and name in ("a.ppm", "a.jp2"):
        return
    pixels = DEEP if bands == 3 else np.dstack([DEEP, DEEP[..., :1]])
    assert cv2.imwrite(str(tmp_path / name), pixels)
    assert "has 16 bits per channel, and kseg reads 8" in refused(tmp_path / name)


def test_8_bits_pass_in_every_format(tmp_path):
    for name in ("a.png", "a.tif", "a.ppm", "a.bmp", "a.jp2", "a.webp"):
        Image.fromarray(PIXELS).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        notes = []
        assert (read_image(tmp_path / name, "a", notes=notes) == PIXELS).all() or name == "a.jp2"
        assert notes == []


def rgbx(path, bands):
    """Writes a TIFF of 8 bits with more bands than three, the last ones not said to be transparency."""
    height, width = PIXELS.shape[:2]
    pixels = np.dstack([PIXELS] + [RNG.integers(0, 256, (height, width), dtype=np.uint8) for _ in range(bands - 3)])
    extra = bands - 3
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, None), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, None),
               (277, 3, 1, bands), (278, 3, 1, height), (279, 4, 1, pixels.size), (338, 3, extra, 0)]  # fmt: skip
    bits_at = 8 + 2 + 12 * len(entries) + 4
    data_at = bits_at + 2 * bands
    ifd = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        value = bits_at if tag == 258 else data_at if tag == 273 else value
        ifd += struct.pack("<HHII", tag, kind, count, value)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + ifd + struct.pack("<I", 0) + struct.pack(f"<{bands}H", *[8] * bands))
    with path.open("ab") as file:
        file.write(pixels.tobytes())


@pytest.mark.parametrize("kind", ["RGBX", "RGBA", "LA", "RGBA.tif"])
def test_bands_that_are_left_out_are_said(tmp_path, kind):
    path = tmp_path / ("a.tif" if kind in ("RGBX", "RGBA.tif") else "a.png")
    band = RNG.integers(0, 256, PIXELS.shape[:2], dtype=np.uint8)
    if kind == "RGBX":
        rgbx(path, 4)
    elif kind == "LA":
        Image.merge("LA", [Image.fromarray(PIXELS[..., 0]), Image.fromarray(band)]).save(path)
    else:
        Image.fromarray(np.dstack([PIXELS, band])).save(path)
    notes = []
    image = read_image(path, "a", notes=notes)
    assert (image[..., 0] == PIXELS[..., 0]).all()
    assert notes == [EXTRA_BANDS]


def test_a_transparency_that_says_nothing_is_not_said(tmp_path):
    Image.fromarray(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])).save(tmp_path / "a.png")
    notes = []
    assert (read_image(tmp_path / "a.png", "a", notes=notes) == PIXELS).all()
    assert notes == []


@pytest.mark.parametrize(("name", "what"), [("a.gif", "frames"), ("a.png", "frames"), ("a.webp", "frames"), ("a.tif", "pages")])
def test_animations_and_files_of_several_pages_are_refused(tmp_path, name, what):
    frames = [Image.fromarray(np.roll(PIXELS, shift, 0)) for shift in (0, 5, 9)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert f"has 3 {what}, and kseg reads files of one" in refused(tmp_path / name)
    frames[0].save(tmp_path / name)
    assert read_image(tmp_path / name, "a").shape == PIXELS.shape
    with Image.open(tmp_path / name) as picture:
        assert image_pixels(picture, "a").shape == PIXELS.shape


def test_overviews_and_previews_are_no_pages(tmp_path):
    picture, small = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::2, ::2].copy())
    small.encoderinfo = {"tiffinfo": {254: 1}}
    picture.save(tmp_path / "a.tif", save_all=True, append_images=[small], tiffinfo={254: 0})
    with Image.open(tmp_path / "a.tif") as stored:
        assert stored.n_frames == 2
        stored.seek(1)
        assert stored.tag_v2.get(254) == 1
    assert (read_image(tmp_path / "a.tif", "a") == PIXELS).all()
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small], quality=95)
    assert read_image(tmp_path / "a.jpg", "a").shape == PIXELS.shape


def test_training_and_prediction_name_the_files(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    band = RNG.integers(0, 256, PIXELS.shape[:2], dtype=np.uint8)
    Image.fromarray(np.dstack([PIXELS, band])).save(tmp_path / "images/b.png")
    cv2.imwrite(str(tmp_path / "images/deep.png"), DEEP)
    for name in ("b", "deep"):
        Image.fromarray(np.zeros(PIXELS.shape[:2], np.uint8)).save(tmp_path / f"labels/{name}.png")
    checked, bad = check_samples(FolderDataset(tmp_path, class_names=["x"]), "skip")
    assert len(checked) == 1
    assert bad[0].startswith("images/deep.png: has 16 bits per channel")
    assert f"warning: 1 image (images/b.png): {EXTRA_BANDS}" in capsys.readouterr().err
    predicted, bad = check_samples(ImageFiles(find_images([str(tmp_path / "images")]), ("x",)), "skip")
    assert len(predicted) == 1
    assert "deep.png: has 16 bits per channel" in bad[0]
    assert f"warning: 1 image (b.png): {EXTRA_BANDS}" in capsys.readouterr().err
    list(read_pictures([tmp_path / "images/b.png"], ahead=1))
    assert f"b.png: {EXTRA_BANDS}" in capsys.readouterr().err
    list(read_pictures([Image.fromarray(np.dstack([PIXELS, band]))], ahead=1))
    assert f"warning: picture 0: {EXTRA_BANDS}" in capsys.readouterr().err
