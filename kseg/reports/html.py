"""Templates and embedded images for HTML pages.

A page is one file. It needs no network, and only the page of kseg.demo has scripts.
"""

import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from kseg.data.palette import IGNORED, hex_color
from kseg.reports.figures import DPI
from kseg.utils.files import write_text
from kseg.utils.images import data_uri


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


def chart_image(png: bytes) -> dict[str, Any]:
    """Returns the img attributes of a chart from kseg.reports.figures: src, and the width in CSS pixels at which it is sharp."""
    return {"src": data_uri(png, "PNG"), "width": round(Image.open(io.BytesIO(png)).width * 96 / DPI)}
