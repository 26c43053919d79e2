"""Shows a Segmenter in a notebook."""

from html import escape
from typing import TYPE_CHECKING

from kseg.data.palette import hex_colors

if TYPE_CHECKING:
    from kseg.api.segmenter import Segmenter


def segmenter_html(segmenter: "Segmenter") -> str:
    """Returns what the model is, where its weights are from, and its classes with their colours."""
    size = segmenter.image_size
    facts = [segmenter.title, f"weights from {segmenter.origin}"]
    if size is not None:
        facts.append(f"trained at {size[0]}x{size[1]}")
    names, colors = segmenter.class_names, hex_colors(len(segmenter.class_names))
    classes = "".join(
        f'<span style="display:inline-block;margin-right:1em"><span style="display:inline-block;width:1em;height:1em;'
        f'background:{color};vertical-align:middle"></span> {escape(name)}</span>'
        for name, color in zip(names, colors, strict=True)
    )
    return f"<p><b>Segmenter</b>: {escape(', '.join(facts))}</p><p>{classes}</p>"
