"""Finds label images of 0 and 255 whose 255 means a class, but is taken for void."""

from collections.abc import Sequence
from typing import Any

from kseg.data.dataset import IGNORE_INDEX, BadSample, Dataset
from kseg.data.label_map import LabelMap
from kseg.data.subset import base_sample


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
    if not isinstance(label_map, LabelMap) or IGNORE_INDEX in label_map.names or not hasattr(base, "label_values"):
        return None
    values: set[int] = set()
    for index in range(len(dataset)):
        values |= _stored_values(dataset, index)
        if len(values - {IGNORE_INDEX}) > 1:
            return None
    if IGNORE_INDEX not in values:
        return None
    others = sorted(values - {IGNORE_INDEX})
    named = [f"{value} ({label_map.names[value]!r})" for value in others]
    used = {label_map.names[value] for value in others}
    name = next((name for name in label_map.class_names if name not in used), "object")
    lines = [f"{value}: {label_map.names[value]}" for value in others]
    held = f"the values {named[0]} and 255" if named else "the value 255"
    return (
        f"its label images hold only {held}, and {label_map.shown} does not say what 255 is; write a label map in YAML with "
        f"{' and '.join(repr(line) for line in [*lines, f'{IGNORE_INDEX}: {name}'])}, or with '{IGNORE_INDEX}: ignore' if those "
        "pixels have no class"
    )


def _stored_values(dataset: Any, index: int) -> set[int]:
    base, place = base_sample(dataset, index)
    try:
        return set(map(int, base.label_values(place)))
    except BadSample:  # of a split that was not checked
        return set()
