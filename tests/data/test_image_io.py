"""Image files: pixels, EXIF orientation, and refused files, before decoding where that could be harmful."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from kseg.data.dataset import BadSample
from kseg.data.image_io import read_image

HEIGHT, WIDTH = 24, 36


@pytest.fixture
def pixels():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 10, columns * 7, (rows + columns) * 4], axis=-1).astype(np.uint8)


def refused(path, **kwargs):
    with pytest.raises(BadSample) as error:
        read_image(path, "images/a.png", **kwargs)
    message = str(error.value)
    assert message.startswith("images/a.png: ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_rgb_comes_back_as_it_was_and_is_writable(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", "a.png", (HEIGHT, WIDTH))
    assert image.dtype == np.uint8
    assert (image == pixels).all()
    image[0, 0] = 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_of_8_bits_become_rgb(tmp_path, pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(file)
    assert (read_image(file, "a") == np.array(image.convert("RGB"))).all()


def test_transparency_is_dropped_and_colours_kept(tmp_path, pixels):
    image = Image.fromarray(pixels).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert (read_image(tmp_path / "a.png", "a") == np.array(image.convert("RGB"))).all()
    image = Image.fromarray(np.dstack([pixels, np.zeros((HEIGHT, WIDTH), np.uint8)]))
    image.save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png", "b") == pixels).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation_is_applied_where_the_stated_size_is_the_oriented_one(tmp_path, pixels, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    stored = np.array(Image.open(path).convert("RGB"))
    oriented = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert (read_image(path, "a", oriented.shape[:2]) == oriented).all()
    assert (read_image(path, "a") == oriented).all()
    if orientation >= 5:
        assert (read_image(path, "a", stored.shape[:2]) == stored).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_square_image_is_oriented_as_viewers_show_it(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    square = pixels[:, :HEIGHT]
    Image.fromarray(square).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png", "a", (HEIGHT, HEIGHT))
    assert (image == np.array(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))).all()
    assert (image != square).any()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_is_ignored(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff", quality=95)
    assert read_image(tmp_path / "a.jpg", "a").shape == pixels.shape


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH + 1), (HEIGHT // 2, WIDTH // 2), (WIDTH, HEIGHT)])
def test_another_size_than_stated_is_refused(tmp_path, pixels, size):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    message = refused(tmp_path / "a.png", size=size, stated_in="train.json")
    assert message == (f"images/a.png: the image is {WIDTH}x{HEIGHT} (width x height), but train.json says {size[1]}x{size[0]}.")


def test_16_bits_and_floats_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "a.png")
    assert "mode I;16 (16 bits or floats); store it with 8 bits" in refused(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tif")
    assert "mode F" in refused(tmp_path / "a.tif")


def test_files_that_are_not_images_are_refused(tmp_path):
    assert refused(tmp_path / "none.png") == "images/a.png: the file does not exist."
    assert refused(tmp_path) == "images/a.png: is not a file."
    assert "cannot be read" in refused(tmp_path / ("x" * 300))
    (tmp_path / "a.png").write_bytes(b"")
    assert refused(tmp_path / "a.png") == "images/a.png: the file is empty."
    for content in (b"hello", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "a.png").write_bytes(content)
        assert "is not an image file" in refused(tmp_path / "a.png") or "cannot be read as an image" in refused(
            tmp_path / "a.png"
        )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(tmp_path) not in refused(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp", "ppm", "jp2"])
def test_damaged_files_are_refused_or_read_but_raise_nothing_else(tmp_path, suffix):
    generator = np.random.default_rng(5)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        damaged = content.copy()
        places = generator.integers(0, min(len(damaged), generator.choice([30, 100, 5000])), 4)
        damaged[places] = generator.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            image = read_image(path, "a", (40, 40))
        except BadSample:
            continue
        assert image.shape == (40, 40, 3)


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    """A PNG of a few bytes that says it has 10^10 pixels."""
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 89478485
    )  # Pillow's default, which --max_pixels of another test may have raised

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (10_000, 100_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(bytes(1000)))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
        assert "MAX_IMAGE_PIXELS" in refused(tmp_path / "a.png", size=(side, side))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_pillows_own(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    assert "more than PIL.Image.MAX_IMAGE_PIXELS = 863 pixels" in refused(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    assert read_image(tmp_path / "a.png", "a").shape == pixels.shape
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(tmp_path / "a.png", "a").shape == pixels.shape
