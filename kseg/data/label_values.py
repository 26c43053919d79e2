"""Finds label images of 0 and 255 whose 255 means a class, but is taken for void."""

from collections.abc import Sequence
from typing import Any

from kseg.data.dataset import IGNORE_INDEX, BadSample, Dataset
from kseg.data.label_map import LabelMap
from kseg.data.subset import base_sample

IN_ARRAYS = "ignore_index"
"""LabelMap.shown of labels that are arrays."""
IN_PYTHON = ("class_names", "label_map")
"""LabelMap.shown of label maps that are given from Python (kseg.data.label_map_file.as_label_map)."""


def unclear_void(dataset: Dataset, occurring: Sequence[bytes]) -> str | None:
    """Returns a line if the label images hold one value and 255 only, and the label map does not say what 255 is; else None.

    Such images are usually masks of two classes, 0 and 255. With 255 ignored, one class is left, and its IoU is always 1.

    occurring: the label values of each sample, after the label map.
    """
    known = set().union(*occurring) if occurring else set()
    if IGNORE_INDEX not in known or len(known) > 2:
        return None
    base, _ = base_sample(dataset, 0)
    label_map = getattr(base, "label_map", None)
    if not isinstance(label_map, LabelMap) or not hasattr(base, "label_values"):
        return None
    if not label_map.names or IGNORE_INDEX in label_map.names:  # colours say all that they mean
        return None
    values: set[int] = set()
    for index in range(len(dataset)):
        values |= _stored_values(dataset, index)
        if len(values - {IGNORE_INDEX}) > 1:
            return None
    if IGNORE_INDEX not in values:
        return None
    others = {value: label_map.names[value] for value in sorted(values - {IGNORE_INDEX})}
    name = next((name for name in label_map.class_names if name not in others.values()), "object")
    held = [f"the values {value} ({named!r}) and 255" for value, named in others.items()] or ["the value 255"]
    unclear = f"its label images hold only {held[0]}, and {label_map.shown} does not say what 255 is"
    return f"{unclear}; {_remedy(label_map, others, name)}"


def _remedy(label_map: LabelMap, others: dict[int, str], name: str) -> str:
    """Returns what to write. others: the values that occur beside 255, and their classes. name: the class that 255 may be."""
    if label_map.shown == IN_ARRAYS:
        index = label_map.class_names.index(name) if name in label_map.class_names else 1
        return f"replace it by a class (labels[labels == 255] = {index}), or pass ignore_index=255 if those pixels have no class"
    classes = {**others, IGNORE_INDEX: name}
    if label_map.shown in IN_PYTHON:
        return f"pass label_map={classes}, or one with 255: 'ignore' if those pixels have no class"
    lines = " and ".join(repr(f"{value}: {named}") for value, named in classes.items())
    return f"write a label map in YAML with {lines}, or with '255: ignore' if those pixels have no class"


def _stored_values(dataset: Any, index: int) -> set[int]:
    base, place = base_sample(dataset, index)
    try:
        return set(map(int, base.label_values(place)))
    except BadSample:  # of a split that was not checked
        return set()
