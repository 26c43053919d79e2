"""Reads and validates a COCO annotation file: entries by id, and the class of each category."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.data.dataset import IGNORE_INDEX
from kseg.data.paths import printable
from kseg.data.sources import coco_masks
from kseg.data.sources.coco_kinds import boxes_or_points, what_is
from kseg.utils.errors import KsegError, suggest

MAX_CLASSES = IGNORE_INDEX
"""Labels are uint8, and 255 is the ignore index."""

Entry = dict[str, Any]
Id = int | str

_KEPT = frozenset(
    ("images", "annotations", "categories", "id", "file_name", "height", "width", "name", "image_id", "category_id",
     "segmentation", "size", "counts")
)  # fmt: skip
_EMPTY: tuple[Any, ...] = ([], None, ())


def read_coco(file: Path, shown: str) -> tuple[dict[str, list[Any]], str]:
    """Reads a COCO file.

    Returns:
        (content, digest): lists under "images", "annotations" and "categories", polygons packed (coco_masks.pack), keys that
        kseg does not use left out; and the SHA-256 of the file's bytes.

    Raises:
        KsegError: if the file cannot be read, is not JSON, lacks one of the lists, or has no masks. shown: the file's name in
            messages.
    """
    try:
        raw = file.read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        text = raw.decode(json.detect_encoding(raw), "surrogatepass").removeprefix("\ufeff")
        del raw
        content = json.loads(text, object_hook=_compact)
    except OSError as error:
        raise KsegError(f"{shown}: cannot be read ({error.strerror}). Check the file.") from error
    except (ValueError, RecursionError) as error:  # not JSON, not Unicode, a number of thousands of digits, nested too deep
        raise KsegError(f"{shown}: is not valid JSON ({error}). Fix the file.") from error
    if isinstance(content, dict) and content.get("images") and content.get("categories") and "annotations" not in content:
        content["annotations"] = []  # of a test split
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise KsegError(f'{shown}: {what_is(file)}: it has no list "{key}". Fix the file, or choose another.')
    annotations = content["annotations"]
    of_images = [entry for entry in annotations if isinstance(entry, dict) and "image_id" in entry]
    if of_images and all(entry.get("segmentation") in _EMPTY for entry in of_images):
        raise KsegError(f"{shown}: {boxes_or_points(file)}.")
    return content, digest


def _compact(entry: Entry) -> Entry:
    """Drops unused keys and packs polygons while the file is parsed: as Python floats they would take 2 GB a million."""
    kept = {key: entry[key] for key in entry if key in _KEPT}
    if type(polygons := kept.get("segmentation")) is list:
        kept["segmentation"] = coco_masks.pack(polygons)
    return kept


def as_int(value: Any) -> int | None:
    """Returns a whole number that a file may hold as 80, 80.0 or "80"; None for anything else."""
    if type(value) is int:  # not isinstance: True is no number
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    return int(value) if type(value) is str and value.isdecimal() and len(value) < 19 else None


def as_id(value: Any) -> Id | None:
    """Returns an id: a number where it is one, however it is written, else a string; None for anything else."""
    number = as_int(value)
    if type(value) is str and (number is None or str(number) != value):  # "007" need not be 7
        return value
    return number


def index_by_id(entries: list[Any], kind: str, shown: str, fields: dict[str, type]) -> tuple[dict[Id, Entry], int]:
    """Returns the entries by id, in file order, with whole numbers as int, and how many were listed twice.

    Raises KsegError if an id occurs twice with different entries, or a field is not of its type.
    """
    result: dict[Id, Entry] = {}
    repeated = 0
    for number, entry in enumerate(entries):
        id_ = as_id(entry.get("id")) if isinstance(entry, dict) else None
        if id_ is None:
            raise KsegError(
                f'{shown}: {kind} number {number} of the list has no "id" that is an integer or a string. Fix the file.'
            )
        entry = check_fields(entry, f"{kind} {printable(str(id_))}", shown, fields)
        if id_ in result:
            if entry != result[id_]:
                raise KsegError(f"{shown}: {kind} id {printable(str(id_))} occurs twice. Fix the file.")
            repeated += 1
        result[id_] = entry
    return result, repeated


def check_fields(entry: Entry, name: str, shown: str, fields: dict[str, type]) -> Entry:
    """Returns an entry with its whole numbers as int. Raises KsegError if a field is not of its type. name: the entry's."""
    for field, wanted in fields.items():
        value = as_int(entry.get(field)) if wanted is int else entry.get(field)
        if type(value) is not wanted:
            what = "an integer" if wanted is int else "a string"
            raise KsegError(f'{shown}: {name} has no "{field}" that is {what}. Fix the file.')
        if value is not entry[field]:
            entry = entry | {field: value}
    return entry


def assign_classes(
    categories: dict[Id, Entry], background: bool, ignored: Sequence[str], shown: str
) -> tuple[tuple[str, ...], dict[Id, int]]:
    """Returns (class_names, label value of each category id).

    background, ignored: see kseg.data.sources.coco.CocoDataset. Raises KsegError if an ignored category does not exist, or if no
    class or more than MAX_CLASSES are left.
    """
    names = {id_: categories[id_]["name"] for id_ in sorted(categories, key=lambda id_: (isinstance(id_, str), id_))}
    all_names = _distinct(list(names), list(names.values()), background)
    values: dict[Id, int] = {}
    for wanted in map(str, ignored):
        ids = [id_ for id_, name in names.items() if name == wanted] or [id_ for id_ in names if str(id_) == wanted]
        ids = ids or [id_ for id_, name in zip(names, all_names, strict=True) if name == wanted]
        if not ids and background and wanted == "background":
            raise KsegError("--ignore_categories=background: it is no category, but the pixels without one; pass --nobackground")
        if not ids:
            raise KsegError(f"--ignore_categories: {shown} has no category {wanted!r}{suggest(wanted, set(names.values()))}")
        values.update(dict.fromkeys(ids, IGNORE_INDEX))
    kept = [id_ for id_ in names if id_ not in values]
    if not kept and names:
        raise KsegError(f"{shown}: every category is ignored, so no class is left; shorten --ignore_categories.")
    if not kept:
        raise KsegError(f"{shown}: defines no categories, so there is no class. Fix the file, or choose another.")
    class_names = (["background"] if background else []) + _distinct(kept, [names[id_] for id_ in kept], background)
    if len(class_names) > MAX_CLASSES:
        raise KsegError(
            f"{shown}: {len(class_names)} classes are more than {MAX_CLASSES}; leave some out with --ignore_categories."
        )
    first = len(class_names) - len(kept)
    values.update({id_: first + place for place, id_ in enumerate(kept)})
    return tuple(class_names), values


def _distinct(ids: Sequence[Id], names: Sequence[str], background: bool) -> list[str]:
    """Returns names that are all distinct: those that share one, or are called background, get their id behind it."""
    names = list(names)
    taken = ["background"] if background else []
    while len(set(taken + names)) < len(taken + names):  # again if "name [id]" is itself the name of a category
        shared = {name for name, count in Counter(taken + names).items() if count > 1}
        names = [f"{name} [{id_}]" if name in shared else name for id_, name in zip(ids, names, strict=True)]
    return names
