"""Image files -> uint8 RGB arrays, safely: the header is checked before any pixel is decoded."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kseg.data.dataset import BadSample

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read. Pillow knows more, among them EPS, which would start Ghostscript."""

Image.init()  # Registers the formats now: Image.open would do it on its first call, which may come from several threads at once.

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


def read_image(path: Path, shown: str, size: tuple[int, int] | None = None, stated_in: str = "") -> np.ndarray:
    """Reads an image file.

    Grey, palette, CMYK and transparent images become RGB, transparency dropped. The EXIF orientation is applied as viewers do,
    unless only the stored, unrotated image has the stated size: then the annotations were made on that one.

    Args:
        path: the file.
        shown: what error messages call it.
        size: stated (height, width); None takes what the file has.
        stated_in: where the size is stated, for the message.

    Returns:
        uint8 [H, W, 3] RGB, writable.

    Raises:
        BadSample: if the file is missing, no image, damaged, of another size than stated, of more than 8 bits, or of more pixels
            than PIL.Image.MAX_IMAGE_PIXELS.
    """
    try:
        if not path.is_file():
            raise BadSample(f"{shown}: {'is not a file' if path.exists() else 'the file does not exist'}.")
        if path.stat().st_size == 0:
            raise BadSample(f"{shown}: the file is empty.")
        with Image.open(path, formats=FORMATS) as image:
            _check_header(image, shown, size, stated_in)
            image.load()
            image.info.pop("transparency", None)  # Else converting a palette warns.
            pixels = np.array(_oriented(image, size).convert("RGB"))
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample(f"{shown}: is not an image file of a known format ({', '.join(FORMATS)}).") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # The latter where warnings are errors.
        raise BadSample(_too_large(shown)) from None
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files: OSError, SyntaxError, struct.error, ...
        reason = " ".join(str(error).split()).replace(str(path), shown) or type(error).__name__
        raise BadSample(f"{shown}: cannot be read as an image ({reason.rstrip('.')}).") from error
    if size is not None and pixels.shape[:2] != size:
        raise BadSample(_wrong_size(shown, pixels.shape[:2], size, stated_in))
    return pixels


def _check_header(image: Image.Image, shown: str, size: tuple[int, int] | None, stated_in: str) -> None:
    width, height = image.size
    if size is not None and size not in ((height, width), (width, height)):  # Either way round until EXIF is known.
        raise BadSample(_wrong_size(shown, (height, width), size, stated_in))
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise BadSample(_too_large(shown))
    if image.mode not in _MODES_OF_8_BITS:
        raise BadSample(f"{shown}: is an image of mode {image.mode} (16 bits or floats); store it with 8 bits per channel.")


def _oriented(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # A damaged EXIF block is ignored, as viewers do.
        orientation = 1
    if orientation not in _TRANSPOSE:
        return image
    width, height = image.size
    turned = (width, height) if orientation >= 5 else (height, width)  # As (height, width).
    return image.transpose(_TRANSPOSE[orientation]) if size is None or size == turned else image


def _too_large(shown: str) -> str:
    return f"{shown}: has more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS} pixels and is not decoded."


def _wrong_size(shown: str, size: tuple[int, int], stated: tuple[int, int], stated_in: str) -> str:
    return (
        f"{shown}: the image is {size[1]}x{size[0]} (width x height), but "
        f"{stated_in or 'the annotations'} says {stated[1]}x{stated[0]}."
    )
