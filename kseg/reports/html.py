"""Templates and embedded images for HTML pages.

A page is one file. It needs no network, and only the page of kseg.demo has scripts.
"""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from kseg.data.palette import IGNORED, palette
from kseg.reports.figures import DPI
from kseg.utils.files import write_text

PANEL = 640
"""Largest side, in pixels, of an example image on a page."""


def template(name: str, folder: Path | None = None) -> jinja2.Template:
    """Returns a template from `folder`, by default templates/ beside this file. Pages include page_style.html.jinja."""
    package = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=package if folder is None else jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder), package]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["ignored"] = hex_color(IGNORED)
    environment.filters["number"] = lambda value: f"{value:.4f}" if np.isfinite(value) else "n/a"
    environment.filters["percent"] = lambda value: "<0.01%" if 0 < value < 5e-5 else f"{value:.2%}"
    environment.filters["whole"] = lambda value: f"{value:.0%}"
    return environment.get_template(name)


def write_page(path: Path, page: str) -> None:
    """Writes a page atomically. Half a surrogate pair, as names from JSON or a file system may have, becomes "?"."""
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


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


def chart_image(png: bytes) -> dict[str, Any]:
    """Returns the img attributes of a chart from kseg.reports.figures: src, and the width in CSS pixels at which it is sharp."""
    return {"src": data_uri(png, "PNG"), "width": round(Image.open(io.BytesIO(png)).width * 96 / DPI)}


def hex_colors(count: int) -> list[str]:
    """Returns the class colours for CSS."""
    return [hex_color(color) for color in palette(count)]


def hex_color(rgb: Iterable[int]) -> str:
    """Returns an RGB colour for CSS."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)
