"""Reads image files and label images. The header is checked before any pixel is decoded."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from kseg.data.dataset import BadSample

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow knows more, among them EPS, which would start Ghostscript."""
LOSSLESS = ("BMP", "GIF", "PNG", "PPM", "TIFF")
"""Formats of label images: JPEG would invent classes."""
IMAGE_SUFFIXES = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes by which folders are searched for images."""

Result = TypeVar("Result")

Image.init()  # now, not in the first Image.open: that may be called from several threads at once

_MODES_OF_8_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: Path | bytes, shown: str, size: tuple[int, int] | None = None, stated_in: str = "", max_pixels: int | None = None
) -> np.ndarray:
    """Reads an image file.

    Grey, palette, CMYK and transparent images become RGB; transparency is dropped. The EXIF orientation is applied, as viewers
    do, unless only the stored, unrotated image has the stated size: then the annotations were made on that one.

    Args:
        source: the file, or its content.
        shown: its name in error messages.
        size: stated (height, width); None accepts any size.
        stated_in: where the size is stated, for error messages.
        max_pixels: images with more pixels are refused before decoding; None: PIL.Image.MAX_IMAGE_PIXELS.

    Returns:
        uint8 [H, W, 3] RGB, writable.

    Raises:
        BadSample: if the file is missing, not an image or damaged, if its size is not the stated one, or if it has more than
            8 bits per channel or more than max_pixels pixels.
    """

    def decode(image: Image.Image) -> np.ndarray:
        return _rgb(image, shown, size, stated_in, max_pixels)

    pixels = _open(source, shown, FORMATS, max_pixels, decode)
    if size is not None and pixels.shape[:2] != size:
        raise BadSample(_wrong_size(shown, pixels.shape[:2], size, stated_in))
    return pixels


def image_pixels(image: Image.Image, shown: str, max_pixels: int | None = None) -> np.ndarray:
    """Returns the pixels of a PIL image as read_image does, uint8 [H, W, 3] RGB. Raises BadSample."""
    info = image.info.copy()
    try:
        return _rgb(image, shown, None, "", max_pixels)
    except BadSample:
        raise
    except Exception as error:
        raise _unreadable(shown, error) from error
    finally:
        image.info = info


def _rgb(image: Image.Image, shown: str, size: tuple[int, int] | None, stated_in: str, max_pixels: int | None) -> np.ndarray:
    _check_header(image, shown, size, stated_in, max_pixels)
    if image.mode not in _MODES_OF_8_BITS:
        raise BadSample(f"{shown}: is an image of mode {image.mode} (16 bits or floats); store it with 8 bits per channel.")
    image.load()
    image.info.pop("transparency", None)  # else converting a palette warns
    return np.array(_oriented(image, size).convert("RGB"))


def read_values(source: Path | bytes, shown: str, max_pixels: int | None = None) -> np.ndarray:
    """Reads the stored values of a label image: a palette's indices or grey values, never colours.

    source, shown, max_pixels: see read_image. Returns uint8 or uint16 [H, W], as stored: the EXIF orientation is not applied,
    values of 1, 2 and 4 bits are not scaled. Raises BadSample if the file is missing, damaged, lossy, in colour or too large.
    """

    def decode(image: Image.Image) -> np.ndarray:
        _check_header(image, shown, None, "", max_pixels)
        if image.mode not in ("1", "L", "P", "I;16", "I;16B"):
            raise BadSample(
                f"{shown}: is an image of mode {image.mode}; a label image has one value per pixel: store it as palette or grey."
            )
        tile = getattr(image, "tile", None)
        raw = tile[0].args if tile else None
        scale = {"L;2": 85, "L;4": 17}.get(raw if isinstance(raw, str) else raw[0] if raw else "", 1)
        values = np.array(image)
        return values.astype(np.uint16 if values.itemsize > 1 else np.uint8) // scale

    return _open(source, shown, LOSSLESS, max_pixels, decode)


def read_size(source: Path | bytes, shown: str, max_pixels: int | None = None, oriented: bool = False) -> tuple[int, int]:
    """Reads (height, width) from the header: as stored, or with `oriented` after the EXIF rotation. Raises BadSample."""

    def size(image: Image.Image) -> tuple[int, int]:
        rotated = oriented and _orientation(image) >= 5
        return (image.width, image.height) if rotated else (image.height, image.width)

    return _open(source, shown, FORMATS, max_pixels, size)


def _open(
    source: Path | bytes, shown: str, formats: tuple[str, ...], max_pixels: int | None, decode: Callable[[Image.Image], Result]
) -> Result:
    """Returns decode(image). Any error in the file becomes a BadSample."""
    if max_pixels is not None and Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow has no other way; it is only ever raised, and _check_header checks each call
    try:
        if isinstance(source, bytes):
            empty = not source
        else:
            if not source.is_file():
                raise BadSample(f"{shown}: {'is not a file' if source.exists() else 'the file does not exist'}.")
            empty = source.stat().st_size == 0
        if empty:
            raise BadSample(f"{shown}: the file is empty.")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            return decode(image)
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample(f"{shown}: is not an image file of a known format ({', '.join(formats)}).") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        raise BadSample(_too_large(shown, max_pixels)) from None
    except Exception as error:  # on damaged files Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise _unreadable(shown, error, source if isinstance(source, Path) else None) from error


def _unreadable(shown: str, error: Exception, path: Path | None = None) -> BadSample:
    reason = " ".join(str(error).split()).replace(str(path or shown), shown) or type(error).__name__
    return BadSample(f"{shown}: cannot be read as an image ({reason.rstrip('.')}).")


def _check_header(image: Image.Image, shown: str, size: tuple[int, int] | None, stated_in: str, max_pixels: int | None) -> None:
    width, height = image.size
    if size is not None and size not in ((height, width), (width, height)):  # either way round until EXIF is known
        raise BadSample(_wrong_size(shown, (height, width), size, stated_in))
    limit = max_pixels or Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise BadSample(_too_large(shown, max_pixels))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation: 2 to 8 for an image that is to be rotated or flipped, else 1."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is ignored, as viewers do
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _oriented(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    orientation = _orientation(image)
    if orientation == 1:
        return image
    width, height = image.size
    rotated = (width, height) if orientation >= 5 else (height, width)  # (height, width) afterwards
    return image.transpose(_TRANSPOSE[orientation]) if size is None or size == rotated else image


def _too_large(shown: str, max_pixels: int | None) -> str:
    limit = f"--max_pixels={max_pixels}" if max_pixels else f"PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}"
    return f"{shown}: has more than {limit} pixels and is not decoded; --max_pixels raises the limit."


def _wrong_size(shown: str, size: tuple[int, int], stated: tuple[int, int], stated_in: str) -> str:
    return (
        f"{shown}: the image is {size[1]}x{size[0]} (width x height), but "
        f"{stated_in or 'the annotations'} says {stated[1]}x{stated[0]}."
    )
