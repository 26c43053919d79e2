"""Downscales pixels and encodes them as image files, for pages and notebooks."""

import base64
import io

import numpy as np
from PIL import Image

PANEL = 640
"""Largest side, in pixels, of an example image on a page."""


def shrink(image: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Downscales an image to at most PANEL pixels a side by area averaging.

    image: uint8 [H, W, 3]. Returns the image and an index: label[index] downscales a label map [H, W] by nearest neighbour.
    """
    height, width = image.shape[:2]
    scale = min(1.0, PANEL / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BOX))
    return small, np.ix_(((np.arange(h) + 0.5) * height / h).astype(int), ((np.arange(w) + 0.5) * width / w).astype(int))


def encode(picture: np.ndarray, kind: str) -> bytes:
    """Encodes an image, uint8 [H, W, 3] or grey [H, W], as a file's content. kind: PNG or JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, quality=88)  # quality affects JPEG only
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Returns an image file's content as the src of an img element. kind: PNG or JPEG."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
