"""Reads label images: grey values, a palette's indices, or colours."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kseg.data.dataset import BadSample
from kseg.data.image_checks import check_bits, check_pages, has_extra_bands, raw_mode
from kseg.data.image_io import check_header, open_image
from kseg.data.label_map import LabelMap

LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP")
"""Formats that may change values."""
_INTEGERS = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I;16N")
_COLOR = ("RGB", "RGBA", "RGBX")
_SCALE = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey values of 2 and 4 bits over 0..255."""


def read_label(
    source: Path | bytes, shown: str, label_map: LabelMap, *, threshold: float | None = None, max_pixels: int | None = None
) -> np.ndarray:
    """Reads a label image as a label map, uint8 [H, W].

    The values of grey images and a palette's indices become classes by the label map's values. Colour images become classes by
    its colours, and so does every image if the label map has colours only. If it has none, RGB with equal channels is grey.

    Args:
        source: the file, or its content.
        shown: its name in messages.
        label_map: see kseg.data.label_map.
        threshold: of two classes, pixels at least so bright are the one of the higher value; soft edges and JPEG are then read.
        max_pixels: see kseg.data.image_io.read_image.

    Raises:
        BadSample: if the file is missing, damaged, lossy or too large, or if the label map does not list a value or colour.
    """
    if threshold is not None:
        low, high = label_map.binary()
        bright = open_image(source, shown, max_pixels, lambda image: _brightness(image, shown, max_pixels)) >= threshold
        return np.where(bright, np.uint8(high), np.uint8(low))

    def decode(image: Image.Image) -> np.ndarray:
        by_color = not label_map.names or (label_map.colors and image.mode in _COLOR)
        return _rgb(image, shown, max_pixels) if by_color else _values(image, shown, max_pixels)

    pixels = open_image(source, shown, max_pixels, decode)
    if pixels.ndim == 2:
        return label_map(pixels, shown)
    if label_map.colors:
        try:
            return label_map.of_colors(pixels, shown)
        except BadSample:
            if not label_map.names or not _is_grey(pixels):
                raise
            return label_map(pixels[..., 0], shown)
    row, column, color = _first_colored(pixels)
    raise BadSample(
        f"{shown}: is a colour image (row {row}, column {column}: {color}), but {label_map.shown} lists values; list colours "
        f"instead, as in NAME: {color}."
    )


def read_values(source: Path | bytes, shown: str, max_pixels: int | None = None) -> np.ndarray:
    """Reads the stored values of a label image: a palette's indices or grey values, never colours.

    Returns uint8 or uint16 [H, W], as stored: the EXIF orientation is not applied, values of 1, 2 and 4 bits are not scaled.
    Raises BadSample if the file is missing, damaged, lossy, in colour or too large.
    """
    values = open_image(source, shown, max_pixels, lambda image: _values(image, shown, max_pixels))
    if values.ndim == 3:
        row, column, color = _first_colored(values)
        raise BadSample(f"{shown}: is a colour image (row {row}, column {column}: {color}), where one value per pixel is needed.")
    return values


def stored_values(source: Path | bytes, shown: str, max_pixels: int | None = None) -> np.ndarray:
    """Returns the different values of a label image, ascending; none for a colour image. Raises BadSample."""
    values = open_image(source, shown, max_pixels, lambda image: _values(image, shown, max_pixels))
    return np.unique(values) if values.ndim == 2 else values[:0, 0, 0]


def _values(image: Image.Image, shown: str, max_pixels: int | None) -> np.ndarray:
    """The values, uint8 or uint16 [H, W]; of an image whose channels differ, RGB, uint8 [H, W, 3]."""
    _check(image, shown, max_pixels)
    if image.mode in _INTEGERS:
        scale = _SCALE.get(raw_mode(image), 1)
        values = np.array(image)
        return values.astype(np.uint16 if values.itemsize > 1 else np.uint8) // scale
    if image.mode in ("I", "F"):
        return _whole(np.array(image), shown)
    if image.mode in ("LA", "PA"):
        return np.array(image.getchannel(0))
    pixels = _rgb(image, shown, max_pixels)
    return np.ascontiguousarray(pixels[..., 0]) if _is_grey(pixels) else pixels


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())


def _rgb(image: Image.Image, shown: str, max_pixels: int | None) -> np.ndarray:
    """The colours, uint8 [H, W, 3]."""
    _check(image, shown, max_pixels)
    if image.mode not in ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX"):
        raise BadSample(f"{shown}: is an image of mode {image.mode}; store label images as grey, palette or RGB.")
    image.load()
    image.info.pop("transparency", None)  # else converting a palette warns
    return np.array(image.convert("RGB"))


def _brightness(image: Image.Image, shown: str, max_pixels: int | None) -> np.ndarray:
    """Grey values as stored, or the brightness of an image in colour, [H, W]."""
    check_header(image, shown, max_pixels=max_pixels)
    check_pages(image, shown)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.array(image)
    check_bits(image, shown)
    image.load()
    image.info.pop("transparency", None)
    return np.array(image.convert("L"))


def _check(image: Image.Image, shown: str, max_pixels: int | None) -> None:
    check_header(image, shown, max_pixels=max_pixels)
    if image.format in LOSSY:
        raise BadSample(
            f"{shown}: is a {image.format} file, whose compression changes values; save label images as PNG, or read masks of "
            "two classes with --label_threshold=128."
        )
    check_pages(image, shown)
    if image.mode in ("LA", "PA", "RGB", "RGBA", "RGBX"):
        check_bits(image, shown)
    if image.mode in ("LA", "PA", "RGBA") and has_extra_bands(image):
        raise BadSample(f"{shown}: its transparency differs from pixel to pixel, which label images have no use for; remove it.")


def _whole(values: np.ndarray, shown: str) -> np.ndarray:
    """The values of a 32-bit image as uint16. Raises BadSample unless they are whole numbers of 16 bits."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    wrong = (whole != values) | (whole < 0) | (whole > 65535)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise BadSample(
            f"{shown}: the pixel in row {row}, column {column} has the value {values[row, column]:g}, but label values are whole "
            "numbers from 0 to 65535; of masks of two classes, --label_threshold=0.5 (or another value) makes them so."
        )
    return whole.astype(np.uint16)


def _first_colored(pixels: np.ndarray) -> tuple[int, int, list[int]]:
    """Row, column and RGB of the first pixel that is not grey."""
    places: Any = np.argwhere((pixels[..., 0] != pixels[..., 1]) | (pixels[..., 0] != pixels[..., 2]))
    row, column = places[0].tolist()
    return row, column, pixels[row, column].tolist()
