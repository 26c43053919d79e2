"""Chooses the example images of a report and draws each as image, label, prediction and errors."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from kseg.data.dataset import Dataset, Sample
from kseg.data.palette import IGNORED, colorize, hex_colors, stripes
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.scores import scores
from kseg.utils.images import data_uri, encode, shrink

WRONG = (214, 20, 20)
"""RGB of wrong pixels in an error map; its other pixels are grey."""

_GAP = 8  # white columns between panels
_EXAMPLES = 3  # images in each of the groups best, median and worst


def examples(
    evaluation: Evaluation, dataset: Dataset, predictor: Callable[[Sequence[int]], Iterable[tuple[np.ndarray, np.ndarray]]]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Returns the groups of examples for the template, and the figure of each (its panels side by side) as PNG by name.

    predictor: a Predictor.
    """
    chosen = [
        (group, number, i) for group, indices in _choose(evaluation.ranking()).items() for number, i in enumerate(indices, 1)
    ]
    predictions = predictor([index for *_, index in chosen]) if chosen else ()
    names, colors = evaluation.class_names, hex_colors(len(evaluation.class_names))
    groups: dict[str, dict[str, Any]] = {}
    strips: dict[str, bytes] = {}
    for (group, number, index), (_, prediction) in zip(chosen, predictions, strict=True):
        sample = dataset.load(index)
        shown_panels = example_panels(sample, prediction, dataset.ignore_index)
        strips[f"{group}_{number}"] = encode(side_by_side(shown_panels), "PNG")
        kinds = ("JPEG", "PNG", "PNG", "PNG")
        counted = sample.label != dataset.ignore_index
        example = {
            "name": sample.name,
            "mean_iou": scores(evaluation.matrices[index]).mean_iou,
            "wrong": float((prediction != sample.label)[counted].mean()),
            "size": f"{sample.label.shape[1]}x{sample.label.shape[0]}",
            "pictures": [data_uri(encode(panel, kind), kind) for panel, kind in zip(shown_panels, kinds, strict=True)],
        }
        shown = groups.setdefault(group, {"title": group.capitalize(), "examples": [], "values": set()})
        shown["examples"].append(example)
        shown["values"] |= {*np.unique(sample.label).tolist(), *np.unique(prediction).tolist()}
    for shown in groups.values():
        values = shown.pop("values")
        shown["ignored"] = dataset.ignore_index in values
        shown["legend"] = [(names[value], colors[value]) for value in sorted(values - {dataset.ignore_index})]
    return list(groups.values()), strips


def _choose(ranking: np.ndarray) -> dict[str, list[int]]:
    """Returns image indices by group: best, median, worst (worst first). No image is in two groups; empty groups are left out."""
    some, more = divmod(min(len(ranking), 3 * _EXAMPLES), 3)
    best, worst = some + (more > 0), some + (more > 1)
    start = best + (len(ranking) - best - worst - some) // 2
    ranked = ranking.tolist()
    groups = {"best": ranked[:best], "median": ranked[start : start + some], "worst": ranked[::-1][:worst]}
    return {group: indices for group, indices in groups.items() if indices}


def example_panels(sample: Sample, prediction: np.ndarray, ignore_index: int) -> list[np.ndarray]:
    """Returns the panels of an example, from left to right: image, label, prediction, errors, uint8 [h, w, 3]."""
    return [*panels(sample, prediction, ignore_index), error_map(sample, prediction, ignore_index)]


def example_image(figure: np.ndarray) -> np.ndarray:
    """Returns the first of the four panels of an example's figure: the image."""
    return figure[:, : max(1, (figure.shape[1] - 3 * _GAP) // 4)]


def panels(sample: Sample, prediction: np.ndarray, ignore_index: int) -> list[np.ndarray]:
    """Returns image, label and prediction, uint8 [h, w, 3], downscaled by shrink. Ignored pixels are hatched in the last two."""
    image, nearest = shrink(sample.image)
    h, w = image.shape[:2]
    ignored = sample.label[nearest] == ignore_index
    stripe = stripes((h, w))
    label = colorize(np.where(ignored, 255, sample.label[nearest]))
    label[ignored & stripe] = 120
    predicted = colorize(prediction[nearest])
    predicted[ignored & stripe] = IGNORED
    return [image, label, predicted]


def error_map(sample: Sample, prediction: np.ndarray, ignore_index: int) -> np.ndarray:
    """Returns the image in pale grey with wrong pixels in red and ignored ones hatched, uint8 [h, w, 3], downscaled by shrink."""
    image, nearest = shrink(sample.image)
    label = sample.label[nearest]
    grey = (image.mean(-1, keepdims=True) * 0.6 + 102).round().astype("uint8").repeat(3, -1)
    ignored = label == ignore_index
    grey[(prediction[nearest] != label) & ~ignored] = WRONG
    grey[ignored & stripes(label.shape)] = 120
    return grey


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Joins images of one height, uint8 [h, w, 3], from left to right with white gaps."""
    gap = np.full((len(pictures[0]), _GAP, 3), 255, "uint8")
    return np.hstack([pictures[0], *(part for picture in pictures[1:] for part in (gap, picture))])
