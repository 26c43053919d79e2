"""How a source reads a split: what it decided, for the user to look at before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 16  # values that a line lists
_WIDTH = 8


@dataclass(frozen=True)
class Reading:
    """What a source decided about a split.

    source: the source and its files. meanings: (value, colour or category, class name or "ignored") pairs. left_out: a line for
    each kind of thing that was left out.
    """

    source: str
    meanings: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...] = ()


def describe_readings(splits: dict[str, Any], skipped: Sequence[str] = ()) -> list[str]:
    """Returns three lines: the files of the first split, what its values became, and what was left out of all splits.

    splits: data sets by the split's name; those without a Reading are described by their classes. skipped: a line for each sample
    that was left out.
    """
    first = next(iter(splits.values()))
    reading = getattr(first, "reading", None)
    if reading is None:
        reading = Reading(type(first).__name__, tuple((str(value), name) for value, name in enumerate(first.class_names)))
    meanings = [describe_meaning(key, name) for key, name in reading.meanings]
    more = f", and {len(meanings) - _SHOWN} more" if len(meanings) > _SHOWN else ""
    left_out = [f"{len(skipped)} unusable sample{'s' if len(skipped) > 1 else ''}"] if skipped else []
    seen: list[Any] = []
    for name, dataset in splits.items():
        other = getattr(dataset, "reading", None)
        lines_of = other.left_out if other is not None and other not in seen else ()  # the parts of a split share one
        left_out += [f"{name}: {line.rstrip('.')}" for line in lines_of]
        seen.append(other)
    lines = {"source": reading.source, "labels": ", ".join(meanings[:_SHOWN]) + more, "skipped": "; ".join(left_out) or "nothing"}
    return [f"{name:<{_WIDTH}}{text}" for name, text in lines.items()]


def describe_meaning(key: Any, name: str) -> str:
    """Returns e.g. "7 = road"; only the key if it ends with the name, as a category's does."""
    return str(key) if str(key).endswith(f" {name}") else f"{key} = {name}"
