"""Reads the file of --label_map: kseg's own YAML, JSON and lists of names, and the files of other tools.

A file that is neither is refused by a line: read line by line, it would shift every class.
"""

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kseg.data.known_label_maps import KNOWN
from kseg.data.label_map import (
    IGNORE,
    Color,
    LabelMap,
    build_color_map,
    build_label_map,
    check_class_names,
    hex_to_rgb,
    parse_mapping,
)
from kseg.data.label_map_tools import recognise
from kseg.utils.errors import KsegError

_MAX_BYTES = 2**20
_KINDS = "a YAML, JSON, CSV or text file"
_OWN = "Write a YAML file with lines such as 0: background"

# Lines of text files. Every line of a file must be of one kind.
_CVAT = re.compile(r"(.+):(\d+),(\d+),(\d+):[^:]*:[^:]*")
_CVAT_WITHOUT_COLOR = re.compile(r"[^:]+::[^:]*:[^:]*")
_RGB_NAME = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\D.*)")
_NAME_RGB = re.compile(r"(.*\D)[\s,:]+(\d+)[\s,]+(\d+)[\s,]+(\d+)")
_ITK_SNAP = re.compile(r'(\d+)\s+\d+\s+\d+\s+\d+\s+[\d.]+\s+[01]\s+[01]\s+"(.+)"')
_SLICER = re.compile(r"(\d+)\s+(\S+)\s+\d+\s+\d+\s+\d+\s+\d+")
_VALUE_NAME = re.compile(r"(\d+)(?:\s*[:=,;]\s*|\s+)(\D.*)")
_SUSPICIOUS = re.compile(r"""[#<\[{("'*]|-\s|.*[:|=\t]|\d+[\s,;]|.*\d[\s,]+\d+[\s,]+\d+\s*$""")

_COLUMNS = {
    "name": ("name", "class", "class name", "class_name", "classname", "label", "label name", "label_name", "category", "title"),
    "value": ("value", "pixel value", "pixel_value", "index", "idx", "id", "class id", "class_id", "label id", "label_id"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "color": ("color", "colour", "class_color", "class color", "rgb", "hex"),
}


def read_label_map(file: str | os.PathLike[str]) -> LabelMap:
    """Reads a label map.

    file: .yaml, .yml or .json with {value: name}, {name: value} or {name: [r, g, b]}; .txt with a name a line, for values 0, 1,
    ...; .csv with columns; a file of another tool; or a name of KNOWN, such as voc. Raises KsegError.
    """
    if file in KNOWN:
        return KNOWN[str(file)]
    path = Path(file).expanduser()
    shown = f"--label_map={file}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise KsegError(f"{shown}: is larger than {_MAX_BYTES} bytes, so it is not a label map. Name another file.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        known = "" if path.suffix else f", or {', '.join(KNOWN)}"
        raise KsegError(f"{shown}: cannot be read ({error.strerror}). Name {_KINDS}{known}.") from None
    except UnicodeDecodeError:
        raise KsegError(f"{shown}: is not a text file in UTF-8. Name {_KINDS}.") from None
    if text.lstrip().startswith("<"):
        raise KsegError(f"{shown}: is an XML or HTML file. {_OWN}.")
    suffix = path.suffix.lower()
    try:
        if suffix in (".yaml", ".yml", ".json"):
            return _read_structured(text, suffix == ".json", path.name, shown)
        return _read_csv(text, path.name, shown) if suffix in (".csv", ".tsv") else _read_text(text, path.name, shown)
    except KsegError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, csv.Error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise KsegError(f"{shown}: looks like a tool's label map, but is malformed ({reason}). {_OWN}.") from error


def as_label_map(
    label_map: "LabelMap | str | os.PathLike[str] | Mapping[Any, Any] | None", class_names: Sequence[str] | None
) -> LabelMap:
    """Returns the label map that a data source was given, from Python or by its flag.

    label_map: a LabelMap, its file, or a dict, see kseg.data.label_map.parse_mapping. class_names: instead of it, the names of
    the values 0, 1, .... Raises KsegError unless one of the two is given.
    """
    if (label_map is None) == (class_names is None):
        what = "both label_map and class_names are given; keep one" if class_names is not None else "the classes have no names"
        raise KsegError(f"{what}: class_names=['road', 'car'] names the label values 0, 1, ...; label_map=FILE, or a dict, any")
    if class_names is not None:
        return build_label_map(dict(enumerate(check_class_names(class_names))), "class_names")
    if isinstance(label_map, Mapping):
        return parse_mapping(label_map, "label_map")
    return label_map if isinstance(label_map, LabelMap) else read_label_map(label_map)  # type: ignore[arg-type]


def _read_structured(text: str, is_json: bool, name: str, shown: str) -> LabelMap:
    try:
        content = json.loads(text, object_pairs_hook=_unique) if is_json else yaml.load(text, _UniqueKeys)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise KsegError(f"{shown}: cannot be read ({' '.join(str(error).split())}). Fix the file.") from None
    if (found := recognise(content, name, shown)) is not None:
        return found
    if not isinstance(content, dict):
        raise KsegError(f"{shown}: is not a mapping of label values to class names. Write lines as in 1: car.")
    return parse_mapping(content, name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object of a JSON file; a key that occurs twice would hide one of its values."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """The same for YAML."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{key!r} occurs twice")
        return super().construct_mapping(node, deep)


def _read_text(text: str, name: str, shown: str) -> LabelMap:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if lines and lines[0].split("\t")[:2] == ["Idx", "Ratio"]:  # ADE20K's objectInfo150.txt; its 0 is what no class covers
        rows = [line.split("\t") for line in lines[1:]]
        return build_label_map({0: IGNORE} | {int(row[0]): row[-1] for row in rows}, name)
    bare = [line for line in lines if line and not line.startswith("#")]
    if all(map(_CVAT_WITHOUT_COLOR.fullmatch, bare)) and bare:
        raise KsegError(f"{shown}: is a label map of CVAT without colours. {_OWN}, or name: [r, g, b].")
    if matches := _all(_CVAT, bare):
        return build_color_map([(m[1].strip(), _rgb(m.groups()[1:], shown)) for m in matches], name)
    for pattern in (_ITK_SNAP, _SLICER):
        if matches := _all(pattern, bare):
            return _by_value([(m[1], m[2]) for m in matches], name, shown)
    if matches := _all(_RGB_NAME, bare):
        return build_color_map([(m[4].strip(), _rgb(m.groups()[:3], shown)) for m in matches], name)
    if matches := _all(_NAME_RGB, bare):
        return build_color_map([(m[1].strip(" \t,:"), _rgb(m.groups()[1:], shown)) for m in matches], name)
    if matches := _all(_VALUE_NAME, bare):
        return _by_value([(m[1], m[2].strip()) for m in matches], name, shown)
    return _read_names(lines, name, shown)


def _read_names(lines: list[str], name: str, shown: str) -> LabelMap:
    """Reads one class name a line."""
    for number, line in enumerate(lines, 1):
        if not line:
            raise KsegError(f"{shown}: line {number} is empty, so the values of the lines below it are unclear. Remove it.")
        if _SUSPICIOUS.match(line):
            raise KsegError(
                f"{shown}: line {number}, {line[:60]!r}, is not just a class name, and the file is of no known tool. {_OWN}."
            )
    if "__ignore__" in lines[:1]:  # labelme's labels.txt: its label images have 255 there
        return build_label_map({255: IGNORE} | dict(enumerate(lines[1:])), name)
    if "__ignore__" in lines:
        raise KsegError(f"{shown}: __ignore__ is not its first line, as in labelme's files. {_OWN}.")
    return build_label_map(dict(enumerate(lines)), name)


def _read_csv(text: str, name: str, shown: str) -> LabelMap:
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.strip().splitlines(), delimiter=delimiter)]
    rows = [row for row in rows if any(row)]
    head = {cell.lower(): place for place, cell in reversed(list(enumerate(rows[0] if rows else [])))}
    places = {kind: next((head[known] for known in names if known in head), None) for kind, names in _COLUMNS.items()}
    if places["name"] is None or all(places[kind] is None for kind in ("value", "r", "color")):
        if rows and all(len(row) in (2, 4) for row in rows) and any(cell.isdecimal() for cell in rows[0]):
            return _read_text("\n".join("\t".join(row) for row in rows), name, shown)  # without a head
        raise KsegError(f"{shown}: has no columns name and value, or name, r, g and b. Add a first line that names them.")

    def cell(row: list[str], kind: str) -> str:
        place = places[kind]
        return row[place] if place is not None and place < len(row) else ""

    values: list[tuple[str, str]] = []
    colors: list[tuple[str, Color]] = []
    for row in rows[1:]:
        label = cell(row, "name")
        if places["value"] is not None:
            values.append((cell(row, "value"), label))
        if places["r"] is not None:
            colors.append((label, _rgb([cell(row, kind) for kind in "rgb"], shown)))
        elif places["color"] is not None:
            color = cell(row, "color")
            if color.isdecimal():  # V7's masks of grey values
                values.append((color, label))
            elif re.fullmatch("#[0-9a-fA-F]{6,8}", color):
                colors.append((label, hex_to_rgb(color)))
            else:
                colors.append((label, _rgb(re.findall(r"\d+", color), shown)))
    return build_color_map(colors, name, _by_value(values, name, shown).names if values else None)


def _all(pattern: re.Pattern[str], lines: Sequence[str]) -> list[re.Match[str]]:
    """Returns the matches of the lines, none unless all lines match."""
    matches = [match for line in lines if (match := pattern.fullmatch(line))]
    return matches if len(matches) == len(lines) else []


def _by_value(pairs: Sequence[tuple[str, str]], name: str, shown: str) -> LabelMap:
    names: dict[int, str] = {}
    for value, label in pairs:
        if not value.isdecimal() or not label:
            raise KsegError(f"{shown}: {value!r} and {label!r} are not a label value and a class name. Fix the file.")
        if names.setdefault(int(value), label) != label:
            raise KsegError(f"{shown}: the value {value} is of {names[int(value)]!r} and of {label!r}; give each its own.")
    if names.get(0) == "unlabeled" and names.get(1) == "person" and 182 in names:
        raise KsegError(
            f"{shown}: is COCO-Stuff's list, but the images of stuffthingmaps hold its numbers less one, and 255 for unlabeled. "
            "Write a YAML file with the lines of the list so lowered: 0: person, 1: bicycle, ..."
        )
    return build_label_map(names, name)


def _rgb(parts: Sequence[Any], shown: str) -> Color:
    if len(parts) != 3 or not all(str(part).isdecimal() and int(part) <= 255 for part in parts):
        raise KsegError(f"{shown}: {' '.join(map(str, parts))!r} is not a colour of three numbers from 0 to 255. Fix the file.")
    return int(parts[0]), int(parts[1]), int(parts[2])
