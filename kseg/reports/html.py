"""What kseg's HTML pages share: templates, style, and pictures inside the page. A page is one file without network, and but for
that of kseg.demo without scripts.
"""

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from kseg.data.palette import palette
from kseg.reports.figures import DPI
from kseg.utils.files import write_text

PANEL = 640
"""Pixels of the longer side of a picture on a page, at most."""


def template(name: str, folder: Path | None = None) -> jinja2.Template:
    """Returns a template of this package's folder templates/, or of another folder. All include page_style.html.jinja, their style."""
    package = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=package if folder is None else jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder), package]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:.4f}" if np.isfinite(value) else "n/a"
    environment.filters["percent"] = lambda value: "<0.01%" if 0 < value < 5e-5 else f"{value:.2%}"
    environment.filters["whole"] = lambda value: f"{value:.0%}"
    return environment.get_template(name)


def write_page(path: Path, page: str) -> None:
    """Writes a page whole or not at all. A name read from JSON or a file system may hold half a surrogate pair, which no file
    can: it becomes "?".
    """
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def shrink(image: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Returns (image, index) at most PANEL pixels wide and high: the image averaged, and label[index] takes a label map's nearest
    pixels along. image: uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    scale = min(1.0, PANEL / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BOX))
    return small, np.ix_(((np.arange(h) + 0.5) * height / h).astype(int), ((np.arange(w) + 0.5) * width / w).astype(int))


def encode(picture: np.ndarray, kind: str) -> bytes:
    """uint8 [H, W, 3], or grey [H, W], as the bytes of a file; kind: PNG or JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, quality=88)  # quality: of JPEG only
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """What stands in an img's src."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


def css_width(chart: bytes) -> int:
    """The width, in CSS pixels, at which a chart of kseg.reports.figures is sharp."""
    return round(Image.open(io.BytesIO(chart)).width * 96 / DPI)


def hex_colors(count: int) -> list[str]:
    """The classes' colours for CSS."""
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in palette(count)]
