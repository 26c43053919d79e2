"""Shows an Evaluation in a notebook."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from kseg.data.palette import hex_colors

if TYPE_CHECKING:
    from kseg.metrics.evaluation import Evaluation


def evaluation_html(evaluation: "Evaluation") -> str:
    """Returns a table of the classes: colour, name, IoU as number and bar, share of the labelled pixels; and the mean IoU."""
    scores = evaluation.scores
    share = scores.pixels / max(scores.pixels.sum(), 1)
    rows = []
    for name, color, iou, part in zip(evaluation.class_names, hex_colors(len(share)), scores.iou, share, strict=True):
        absent = np.isnan(iou)
        bar = "" if absent else f'<div style="background:{color};height:0.8em;width:{8 * iou:.2f}em"></div>'
        rows.append(
            f'<tr><td style="background:{color};width:1.2em"></td><td style="text-align:left">{escape(name)}</td>'
            f'<td>{"absent" if absent else f"{iou:.4f}"}</td><td style="width:8em">{bar}</td><td>{part:.2%}</td></tr>'
        )
    head = '<tr><th></th><th style="text-align:left">class</th><th>IoU</th><th></th><th>share of pixels</th></tr>'
    mean = (
        f'<tr><td></td><td style="text-align:left"><b>mean</b></td><td><b>{scores.mean_iou:.4f}</b></td><td></td><td></td></tr>'
    )
    return f"<table>{head}{''.join(rows)}{mean}</table>"
