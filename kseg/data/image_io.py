"""Reads image files. The header is checked before any pixel is decoded. Label images: kseg.data.label_images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from kseg.data.dataset import BadSample
from kseg.data.image_checks import EXTRA_BANDS, check_bits, check_pages, has_extra_bands

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow knows more, among them EPS, which would start Ghostscript."""
IMAGE_SUFFIXES = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes by which folders are searched for images."""

MISSING = "the file does not exist."
"""End of the message about a missing file."""
EXIF_UNCLEAR = "the EXIF orientation fits the label both ways; turned as viewers show it (--exif=ignore: as stored)"
EXIF_STORED = "the EXIF orientation is not applied: only so the image has the stated size"
"""Notes of read_image, as EXTRA_BANDS of kseg.data.image_checks."""

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
    source: Path | bytes,
    shown: str,
    size: tuple[int, int] | None = None,
    stated_in: str = "",
    max_pixels: int | None = None,
    *,
    exif: str = "auto",
    notes: list[str] | None = None,
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
        exif: "auto", as above; "apply" always applies the EXIF orientation, "ignore" never.
        notes: receives what the user should know: EXIF_UNCLEAR, EXIF_STORED, EXTRA_BANDS.

    Returns:
        uint8 [H, W, 3] RGB, writable.

    Raises:
        BadSample: if the file is missing, not an image or damaged, if its size is not the stated one, or if it has more than
            8 bits per channel, several pages or frames, or more than max_pixels pixels.
    """

    def decode(image: Image.Image) -> np.ndarray:
        return _rgb(image, shown, size, stated_in, max_pixels, exif, notes)

    pixels = open_image(source, shown, max_pixels, decode)
    if size is not None and pixels.shape[:2] != size:
        raise BadSample(_wrong_size(shown, pixels.shape[:2], size, stated_in))
    return pixels


def image_pixels(image: Image.Image, shown: str, max_pixels: int | None = None, notes: list[str] | None = None) -> np.ndarray:
    """Returns the pixels of a PIL image as read_image does, uint8 [H, W, 3] RGB. Raises BadSample."""
    info = image.info.copy()
    try:
        return _rgb(image, shown, None, "", max_pixels, notes=notes)
    except BadSample:
        raise
    except Exception as error:
        raise _unreadable(shown, error) from error
    finally:
        image.info = info


def _rgb(
    image: Image.Image,
    shown: str,
    size: tuple[int, int] | None,
    stated_in: str,
    max_pixels: int | None,
    exif: str = "auto",
    notes: list[str] | None = None,
) -> np.ndarray:
    check_header(image, shown, size, stated_in, max_pixels)
    if image.mode not in _MODES_OF_8_BITS:
        raise BadSample(f"{shown}: is an image of mode {image.mode} (16 bits or floats); store it with 8 bits per channel.")
    check_bits(image, shown)
    check_pages(image, shown)
    image.load()
    image.info.pop("transparency", None)  # else converting a palette warns
    if notes is not None and (image.mode != "RGB" or image.format == "TIFF") and has_extra_bands(image):
        notes.append(EXTRA_BANDS)
    return np.array(_oriented(image, size, exif, notes).convert("RGB"))


def read_size(source: Path | bytes, shown: str, max_pixels: int | None = None, oriented: bool = False) -> tuple[int, int]:
    """Reads (height, width) from the header: as stored, or with `oriented` after the EXIF rotation. Raises BadSample."""

    def size(image: Image.Image) -> tuple[int, int]:
        rotated = oriented and _orientation(image) >= 5
        return (image.width, image.height) if rotated else (image.height, image.width)

    return open_image(source, shown, max_pixels, size)


def read_orientation(source: Path | bytes, shown: str, max_pixels: int | None = None) -> tuple[tuple[int, int], int]:
    """Reads the stored (height, width) and the EXIF orientation, 1 to 8, from the header. Raises BadSample."""
    return open_image(source, shown, max_pixels, lambda image: ((image.height, image.width), _orientation(image)))


def open_image(source: Path | bytes, shown: str, max_pixels: int | None, decode: Callable[[Image.Image], Result]) -> Result:
    """Returns decode(image). Any error in the file becomes a BadSample."""
    if max_pixels is not None and Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow has no other way; it is only ever raised, and check_header checks each call
    try:
        if isinstance(source, bytes):
            empty = not source
        else:
            if not source.is_file():
                raise BadSample(f"{shown}: {'is not a file.' if source.exists() else MISSING}")
            empty = source.stat().st_size == 0
        if empty:
            raise BadSample(f"{shown}: the file is empty.")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return decode(image)
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample(f"{shown}: is not an image file of a known format ({', '.join(FORMATS)}).") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        raise BadSample(_too_large(shown, max_pixels)) from None
    except Exception as error:  # on damaged files Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise _unreadable(shown, error, source if isinstance(source, Path) else None) from error


def _unreadable(shown: str, error: Exception, path: Path | None = None) -> BadSample:
    reason = " ".join(str(error).split()).replace(str(path or shown), shown) or type(error).__name__
    return BadSample(f"{shown}: cannot be read as an image ({reason.rstrip('.')}).")


def check_header(
    image: Image.Image, shown: str, size: tuple[int, int] | None = None, stated_in: str = "", max_pixels: int | None = None
) -> None:
    """Raises BadSample for an opened image of another size, either way round, or of too many pixels."""
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


def _oriented(image: Image.Image, size: tuple[int, int] | None, exif: str, notes: list[str] | None) -> Image.Image:
    orientation = _orientation(image) if exif != "ignore" else 1
    if orientation == 1:
        return image
    width, height = image.size
    rotated = (width, height) if orientation >= 5 else (height, width)  # (height, width) afterwards
    if exif == "auto" and size is not None and notes is not None:
        if size == rotated == (height, width):
            notes.append(EXIF_UNCLEAR)
        elif size == (height, width):
            notes.append(EXIF_STORED)
    return image.transpose(_TRANSPOSE[orientation]) if size in (None, rotated) or exif == "apply" else image


def _too_large(shown: str, max_pixels: int | None) -> str:
    limit = f"--max_pixels={max_pixels}" if max_pixels else f"PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}"
    return f"{shown}: has more than {limit} pixels and is not decoded; --max_pixels raises the limit."


def _wrong_size(shown: str, size: tuple[int, int], stated: tuple[int, int], stated_in: str) -> str:
    return (
        f"{shown}: the image is {size[1]}x{size[0]} (width x height), but "
        f"{stated_in or 'the annotations'} says {stated[1]}x{stated[0]}."
    )
