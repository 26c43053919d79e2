"""Says what a JSON file is that is no COCO file of masks, in a line."""

import json
from pathlib import Path
from typing import Any

_MAX_BYTES = 2**28  # a larger file is not read again for a message

_BY_KEYS = (
    ({"shapes", "imagePath"}, "is labelme's file of one image; convert all of them with labelme2coco or labelme2voc"),
    ({"_via_img_metadata"}, "is a project of the VGG Image Annotator; export its annotations as COCO"),
    ({"imgHeight", "objects"}, "has the polygons of one Cityscapes image; --layout=cityscapes reads the label images beside it"),
    ({"size", "objects"}, "is Supervisely's file of one image; export as COCO, or as masks for --dataset=folder"),
    ({"items", "categories"}, "is Datumaro's JSON; export as COCO"),
    ({"videos", "annotations"}, "has annotations of videos (YouTube-VIS); kseg reads those of images"),
    ({"item", "annotations"}, "is V7 Darwin's file of one image; export as COCO"),
    ({"samples"}, "is no COCO file; export as COCO"),
)  # fmt: skip


def what_is(file: Path) -> str:
    """Returns what a JSON file without COCO's lists is, and what to do; "is not in COCO format" if it is of no known kind."""
    unknown = "is not in COCO format"
    try:
        if file.stat().st_size > _MAX_BYTES:
            return unknown
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return unknown
    return _of_list(content) if isinstance(content, list) else _of_dict(content) or unknown


def boxes_or_points(file: Path) -> str:
    """Returns what a COCO file has in place of masks, and what to do."""
    raw = file.read_bytes()
    if b'"segments_info"' in raw:
        return (
            "is a panoptic COCO file, whose masks are in PNG files; use the instances file, or convert the PNG files to label "
            "images for --dataset=folder"
        )
    if b'"caption"' in raw:
        return "is a COCO file of captions, without masks; use the instances file"
    if b'"keypoints"' in raw:
        return "is a COCO file of keypoints, without masks; use the instances file"
    if b'"bbox"' in raw:
        return (
            "has boxes only, and segmentation needs masks; annotate polygons, or make masks of the boxes with a tool such as SAM"
        )
    return "has annotations without any segmentation; annotate polygons or masks"


def _of_list(content: list[Any]) -> str:
    first = content[0] if content and isinstance(content[0], dict) else {}
    if {"image_id", "category_id"} <= first.keys():
        return "is a list of COCO results, not of annotations; pass the annotations file"
    if "data" in first and ("annotations" in first or "completions" in first):
        return "is Label Studio's JSON; export as COCO"
    if "data_row" in first or "Labeled Data" in first:
        return "is Labelbox's JSON; export as COCO"
    if {"image", "annotations"} <= first.keys():
        return "is CreateML's JSON, which has boxes only; export as COCO"
    return "is not in COCO format"


def _of_dict(content: Any) -> str | None:
    if not isinstance(content, dict):
        return None
    for keys, text in _BY_KEYS:
        if keys <= content.keys():
            return text
    annotations = content.get("annotations")
    if isinstance(annotations, list) and annotations and isinstance(annotations[0], dict):
        if "caption" in annotations[0]:
            return "is a COCO file of captions, without masks; use the instances file"
        if "segments_info" in annotations[0]:
            return "is a panoptic COCO file, whose masks are in PNG files; use the instances file"
    entry = next(iter(content.values()), None)
    if isinstance(entry, dict) and {"filename", "regions"} <= entry.keys():
        return "is the VGG Image Annotator's JSON; export its annotations as COCO"
    return None
