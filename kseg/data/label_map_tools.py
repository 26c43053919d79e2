"""Recognises the JSON and YAML files in which other tools name classes."""

from typing import Any

from kseg.data.label_map import IGNORE, Color, LabelMap, build_color_map, build_label_map, hex_to_rgb, parse_mapping
from kseg.utils.errors import KsegError

_BLACK: Color = (0, 0, 0)
_OWN = "Write a YAML file with a line for each value of the label images, such as 0: background"


def recognise(content: Any, name: str, shown: str) -> LabelMap | None:
    """Returns the label map of a tool's file; None if the file is of no known tool.

    name, shown: the file's name, short and as the flag gives it. Raises KsegError for a file that says nothing about label
    images, with what to do instead.
    """
    if isinstance(content, dict):
        for keys, reason in _REFUSED:
            if _has(content, keys):
                raise KsegError(f"{shown}: {reason}.")
        for keys, read in _READ:
            if _has(content, keys):
                return read(content, name, shown)
        return _supervisely_values(content, name) if name == "obj_class_to_machine_color.json" else None
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if {"png_index", "class_name"} <= content[0].keys():  # Hasty; 0 is the background
            names = {0: "background"} | {int(entry["png_index"]): str(entry["class_name"]) for entry in content}
            return build_label_map(names, name)
        if {"name", "color", "attributes"} <= content[0].keys():  # CVAT's labels, as its editor shows them
            return _with_background([(str(entry["name"]), _color(entry["color"], shown)) for entry in content], name)
        raise KsegError(f"{shown}: is a list of objects that do not say which value a class has in the label images. {_OWN}.")
    return None


def _has(content: dict[str, Any], keys: set[str]) -> bool:
    """Returns True if the keys are there and one holds more than a number or name, as a class of kseg's own file would."""
    return keys <= content.keys() and any(isinstance(content[key], (dict, list)) for key in keys)


_REFUSED = (
    ({"images", "annotations"}, "is a COCO file: --dataset=coco reads it"),
    ({"categories"}, f"lists categories, whose ids need not be the values of label images (Label Studio's notes.json). {_OWN}"),
    ({"shapes", "imagePath"}, "is labelme's file of one image. Convert all of them to COCO, or to label images (labelme2voc)"),
    ({"_via_img_metadata"}, "is a project of the VGG Image Annotator. Export its annotations as COCO, for --dataset=coco"),
    ({"imgHeight", "objects"}, "has the polygons of one Cityscapes image. --layout=cityscapes reads the label images beside it"),
    ({"pathClasses"}, f"lists QuPath's classes without the numbers that addLabel gave them. {_OWN}"),
    ({"names", "nc"}, f"is YOLO's data.yaml, whose numbers are of polygons in text files. {_OWN}, or export as COCO"),
    ({"names", "train"}, f"is YOLO's data.yaml, whose numbers are of polygons in text files. {_OWN}, or export as COCO"),
)


def _supervisely(content: dict[str, Any], name: str, shown: str) -> LabelMap:
    """meta.json: the colours of masks_human, in which black is the background."""
    classes = content["classes"]
    if not _has_entries(classes, "title", "color"):
        raise KsegError(f'{shown}: its "classes" have no title and color. {_OWN}.')
    return _with_background([(str(entry["title"]), _color(entry["color"], shown)) for entry in classes], name)


def _supervisely_values(content: dict[str, Any], name: str) -> LabelMap:
    """The colours of masks_machine, which are grey: {class name: [value, value, value]}; 0 is the background."""
    label_map = parse_mapping(content, name)
    if any(len(set(color)) > 1 for color in label_map.colors):
        return label_map
    return build_label_map({0: "background"} | {color[0]: label for color, label in label_map.colors.items()}, name)


def _datumaro(content: dict[str, Any], name: str, shown: str) -> LabelMap:
    """dataset_meta.json: "label_map" {"0": name} or "labels" [name, ...], and "segmentation_colors" [[r, g, b], ...]."""
    listed = content.get("label_map") or dict(enumerate(content.get("labels", [])))
    if not isinstance(listed, dict) or not all(str(key).isdecimal() and isinstance(label, str) for key, label in listed.items()):
        raise KsegError(f'{shown}: its "label_map" is not of the kind "0": "background". {_OWN}.')
    names = {int(key): label for key, label in listed.items()}
    colors = content["segmentation_colors"] or []
    pairs = [(label, _color(color, shown)) for label, color in zip(names.values(), colors, strict=False) if color is not None]
    return build_color_map(pairs, name, names)


def _labels(content: dict[str, Any], name: str, shown: str) -> LabelMap:
    """Mapillary Vistas' config.json: "labels" [{"name", "color", "evaluate"}, ...]; the value is the place in the list."""
    labels = content["labels"]
    if not _has_entries(labels, "name"):
        raise KsegError(f'{shown}: its "labels" have no names. {_OWN}.')
    names = {value: IGNORE if entry.get("evaluate") is False else str(entry["name"]) for value, entry in enumerate(labels)}
    return build_label_map(names, name)


def _transformers(content: dict[str, Any], name: str, shown: str) -> LabelMap:
    """A model's config.json on the Hugging Face Hub: "id2label" {"0": name}."""
    return parse_mapping(content["id2label"], name)


_READ = (
    ({"segmentation_colors"}, _datumaro),
    ({"classes"}, _supervisely),
    ({"labels"}, _labels),
    ({"id2label"}, _transformers),
)


def _with_background(colors: list[tuple[str, Color]], name: str) -> LabelMap:
    """Adds black as the background, unless a class has it."""
    background = [] if _BLACK in {color for _, color in colors} else [("background", _BLACK)]
    return build_color_map([*background, *colors], name)


def _has_entries(entries: Any, *keys: str) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) and set(keys) <= entry.keys() for entry in entries)


def _color(color: Any, shown: str) -> Color:
    if isinstance(color, str) and len(color) >= 7 and color[0] == "#":
        try:
            return hex_to_rgb(color)
        except ValueError:
            pass
    elif isinstance(color, list) and len(color) >= 3 and all(type(part) is int and 0 <= part <= 255 for part in color[:3]):
        return color[0], color[1], color[2]
    raise KsegError(f"{shown}: {color!r} is not a colour. {_OWN}.")
