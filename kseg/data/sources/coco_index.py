"""Groups the annotations of a COCO file by image, leaves out pieces that cover nothing, and finds the frame of turned images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kseg.data.paths import printable
from kseg.data.sources import coco_masks
from kseg.data.sources.coco_json import Entry, Id, as_id, check_fields
from kseg.utils.errors import KsegError

Size = tuple[int, int]
"""(height, width)."""


@dataclass
class Annotations:
    """The annotations of a split.

    by_image: (name in messages, label value, segmentation) of each annotation, by image index. bad: why an image cannot be used,
    by index. sizes: of the frame that the annotations are in. warnings: lines for the user. details: a line for each piece that
    was left out.
    """

    by_image: list[list[tuple[str, int, coco_masks.Segmentation]]]
    bad: dict[int, str]
    sizes: list[Size]
    warnings: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


def group_annotations(
    entries: Sequence[Any],
    image_ids: Sequence[Id],
    sizes: list[Size],
    values: dict[Id, int],
    shown: str,
    *,
    bad: dict[int, str],
    image_name: Callable[[int], str],
    other_frame: Callable[[int], bool],
    strict: bool,
) -> Annotations:
    """Groups the annotations by image, in compact form.

    Args:
        entries: the file's list.
        image_ids, sizes: of each image.
        values: label value of each category id.
        shown: the file's name in messages.
        bad: images that cannot be used, and why; taken over.
        image_name: an image's name in messages.
        other_frame: reads an image's header: True if its annotations may be in the frame of the other size, (width, height).
        strict: makes an image bad if one of its annotations covers nothing; else such pieces are left out.

    Raises:
        KsegError: for an entry that is no annotation.
    """
    result = Annotations([[] for _ in sizes], dict(bad), list(sizes))
    grouped, unlisted, unnamed = _by_image(entries, image_ids, shown)
    clipped: list[str] = []
    turned: list[int] = []
    for index, annotations in enumerate(grouped):
        if not annotations or index in result.bad:
            continue
        height, width = sizes[index]
        inside = all(fits(entry.get("segmentation"), height, width) for _, entry in annotations)
        swapped = not inside and all(fits(entry.get("segmentation"), width, height) for _, entry in annotations)
        if swapped and height != width and other_frame(index):
            turned.append(index)
            height, width = result.sizes[index] = width, height
            inside = True
        for name, entry in annotations:
            value = values.get(entry["category_id"])
            where = f"{shown}: annotation {name} (image {image_name(index)})"
            if value is None:
                category = printable(str(entry["category_id"]))
                result.bad[index] = f"{shown}: annotation {name} names category {category}, which the file does not define."
                break
            segmentation = entry.get("segmentation")
            try:
                if not strict:
                    segmentation, dropped = coco_masks.without_empty(segmentation)
                    result.details += [f"{where}: {reason}." for reason in dropped]
                    if segmentation is None:
                        continue
                parsed = coco_masks.read_segmentation(segmentation, height, width)
            except coco_masks.BadMask as error:
                result.bad[index] = f"{where}: {error}."
                break
            result.by_image[index].append((name, value, parsed))
            clipped += [name] * (0 if inside else coco_masks.count_outside(parsed, height, width))
    result.warnings = _warnings(shown, clipped, result.details, unlisted, unnamed, [image_name(index) for index in turned])
    return result


def _by_image(
    entries: Sequence[Any], image_ids: Sequence[Id], shown: str
) -> tuple[list[list[tuple[str, Entry]]], list[str], int]:
    """Returns (name, entry) of the annotations by image, the names of those of other images, and how many lack their own id."""
    indices = {id_: index for index, id_ in enumerate(image_ids)}
    grouped: list[list[tuple[str, Entry]]] = [[] for _ in image_ids]
    unlisted: list[str] = []
    seen: set[Id] = set()
    unnamed = 0
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise KsegError(f"{shown}: annotation number {number} of the list is not an object. Fix the file.")
        id_ = as_id(entry.get("id"))
        if id_ is None or id_ in seen:
            unnamed += 1
        name = f"number {number} of the list" if id_ is None else printable(str(id_))
        if id_ is not None:
            seen.add(id_)
        image_id, category = as_id(entry.get("image_id")), as_id(entry.get("category_id"))
        if image_id is None or category is None:
            check_fields(entry, f"annotation {name}", shown, {"image_id": int, "category_id": int})
        index = indices.get(image_id)  # type: ignore[arg-type]
        if index is None:
            unlisted.append(name)
        else:
            entry["category_id"] = category
            grouped[index].append((name, entry))
    return grouped, unlisted, unnamed


def fits(segmentation: Any, height: int, width: int) -> bool:
    """Returns True if a segmentation lies within an image of this size: polygons inside, an RLE of just this size."""
    if isinstance(segmentation, dict):
        return segmentation.get("size") == [height, width]
    if not isinstance(segmentation, tuple):
        return True
    return coco_masks.count_outside(segmentation, height, width) == 0


def _warnings(
    shown: str, clipped: Sequence[str], details: Sequence[str], unlisted: Sequence[str], unnamed: int, turned: Sequence[str]
) -> list[str]:
    warnings = []
    if clipped:
        warnings.append(f"{shown}: clipped {_number(clipped, 'polygon')} at the image's border (first: annotation {clipped[0]}).")
    if details:
        first = details[0].removeprefix(f"{shown}: ")
        warnings.append(
            f"{shown}: left out {_number(details, 'annotation')} or part of one that covers nothing (first: {first.rstrip('.')})."
        )
    if unlisted:
        warnings.append(
            f"{shown}: left out {_number(unlisted, 'annotation')} of images that it does not list "
            f"(first: annotation {unlisted[0]})."
        )
    if unnamed:
        warnings.append(f"{shown}: {unnamed} annotations have no id, or one that another has; none is needed.")
    if turned:
        warnings.append(
            f"{shown}: states the width and height of {_number(turned, 'image')} the other way round than the polygons lie; the "
            f"polygons count (first: {turned[0]})."
        )
    return warnings


def _number(things: Sequence[Any], name: str) -> str:
    return f"1 {name}" if len(things) == 1 else f"{len(things)} {name}s"
