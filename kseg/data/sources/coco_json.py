"""Reads and validates a COCO annotation file: entries by id, and the class of each category."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.data.dataset import IGNORE_INDEX
from kseg.data.sources import coco_masks
from kseg.utils.errors import KsegError, suggest

MAX_CLASSES = IGNORE_INDEX
"""Labels are uint8, and 255 is the ignore index."""

Entry = dict[str, Any]

_KEPT = frozenset(
    ("images", "annotations", "categories", "id", "file_name", "height", "width", "name", "image_id", "category_id",
     "segmentation", "size", "counts")
)  # fmt: skip


def read_coco(file: Path, shown: str) -> tuple[dict[str, list[Any]], str]:
    """Reads a COCO file.

    Returns:
        (content, digest): lists under "images", "annotations" and "categories", polygons packed (coco_masks.pack), keys that
        kseg does not use left out; and the SHA-256 of the file's bytes.

    Raises:
        KsegError: if the file cannot be read, is not JSON or lacks one of the lists. shown: the file's name in messages.
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
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise KsegError(f'{shown}: is not in COCO format: it has no list "{key}". Fix the file, or choose another.')
    return content, digest


def _compact(entry: Entry) -> Entry:
    """Drops unused keys and packs polygons while the file is parsed: as Python floats they would take 2 GB a million."""
    kept = {key: entry[key] for key in entry if key in _KEPT}
    if type(polygons := kept.get("segmentation")) is list:
        kept["segmentation"] = coco_masks.pack(polygons)
    return kept


def index_by_id(entries: list[Any], kind: str, shown: str, fields: dict[str, type]) -> dict[int, Entry]:
    """Returns the entries by id, in file order. Raises KsegError if an id occurs twice or a field is not of its type."""
    result: dict[int, Entry] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:  # not isinstance: True is no id
            raise KsegError(f'{shown}: {kind} number {number} of the list has no "id" that is an integer. Fix the file.')
        id_ = entry["id"]
        if id_ in result:
            raise KsegError(f"{shown}: {kind} id {id_} occurs twice. Fix the file.")
        for field, wanted in fields.items():
            if type(entry.get(field)) is not wanted:
                what = "an integer" if wanted is int else "a string"
                raise KsegError(f'{shown}: {kind} {id_} has no "{field}" that is {what}. Fix the file.')
        result[id_] = entry
    return result


def assign_classes(
    categories: dict[int, Entry], background: bool, ignored: Sequence[str], shown: str
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Returns (class_names, label value of each category id).

    background, ignored: see kseg.data.sources.coco.CocoDataset. Raises KsegError if an ignored category does not exist, or if no
    class or more than MAX_CLASSES are left.
    """
    names = {id_: categories[id_]["name"] for id_ in sorted(categories)}
    values: dict[int, int] = {}
    for wanted in map(str, ignored):
        ids = [id_ for id_, name in names.items() if name == wanted] or [id_ for id_ in names if str(id_) == wanted]
        if not ids:
            raise KsegError(f"--ignore_categories: {shown} has no category {wanted!r}{suggest(wanted, set(names.values()))}")
        values.update(dict.fromkeys(ids, IGNORE_INDEX))
    kept = [id_ for id_ in names if id_ not in values]
    class_names = (["background"] if background else []) + [names[id_] for id_ in kept]
    if not kept and names:
        raise KsegError(f"{shown}: every category is ignored, so no class is left; shorten --ignore_categories.")
    if not kept:
        raise KsegError(f"{shown}: defines no categories, so there is no class. Fix the file, or choose another.")
    if len(class_names) > MAX_CLASSES:
        raise KsegError(
            f"{shown}: {len(class_names)} classes are more than {MAX_CLASSES}; leave some out with --ignore_categories."
        )
    first = len(class_names) - len(kept)
    while len(set(class_names)) < len(class_names):  # again if "name [id]" is itself the name of a category
        shared = {name for name, count in Counter(class_names).items() if count > 1}
        class_names[first:] = [
            f"{name} [{id_}]" if name in shared else name for id_, name in zip(kept, class_names[first:], strict=True)
        ]
    values.update({id_: first + place for place, id_ in enumerate(kept)})
    return tuple(class_names), values
