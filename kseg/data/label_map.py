"""The class of each value or colour of a label image. kseg.data.label_map_file reads them from files."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kseg.data.dataset import IGNORE_INDEX, BadSample
from kseg.utils.errors import KsegError, suggest

IGNORE = "ignore"
"""The class name for values and colours whose pixels are ignored."""
Color = tuple[int, int, int]
"""RGB, 0..255 each."""
_MAX_VALUE = 2**16 - 1


@dataclass(frozen=True)
class LabelMap:
    """The class of each value of a grey or palette image, of each colour of a colour image, or both.

    Attributes:
        class_names: in the order in which the file first names them.
        names: {value: class name or "ignore"}, as listed. Empty: the label images are read by colour alone.
        colors: {RGB: class name or "ignore"}, as listed.
        shown: the file's name in messages.
        table: int16 [65536], class index by value; IGNORE_INDEX, or -1 for a value that is not listed. 255 is ignored unless it
            is listed.
    """

    class_names: tuple[str, ...]
    names: Mapping[int, str]
    shown: str
    colors: Mapping[Color, str] = field(default_factory=dict)
    table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = np.full(_MAX_VALUE + 1, -1, np.int16)
        table[IGNORE_INDEX] = IGNORE_INDEX
        for value, name in self.names.items():
            table[value] = self._index(name)
        object.__setattr__(self, "table", table)

    def __call__(self, values: np.ndarray, shown: str) -> np.ndarray:
        """Maps values [H, W] to a label map, uint8 [H, W]. Raises BadSample for a value that the file does not list."""
        label = self.table[values]
        if label.min(initial=0) < 0:
            row, column = np.argwhere(label < 0)[0]
            raise BadSample(
                f"{shown}: the pixel in row {row}, column {column} has the value {values[row, column]}, "
                f"which {self.shown} does not list."
            )
        return label.astype(np.uint8)

    def of_colors(self, pixels: np.ndarray, shown: str) -> np.ndarray:
        """Maps RGB pixels, uint8 [H, W, 3], to a label map, uint8 [H, W]. Raises BadSample for a colour that is not listed."""
        codes, indices = self._color_table
        found = _codes(pixels)
        places = np.searchsorted(codes, found)
        places[places == len(codes)] = 0
        wrong = codes[places] != found
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            color = pixels[row, column].tolist()
            raise BadSample(
                f"{shown}: the pixel in row {row}, column {column} has the colour {color}, which {self.shown} does not list; add "
                f"a line such as NAME: {color}, or ignore: {color}{self._hint(color)}."
            )
        return indices[places]

    def ignoring(self, ignored: Sequence[str]) -> "LabelMap":
        """Returns the map with some classes ignored. Raises KsegError if a class does not exist, or if none is left."""
        for name in ignored:
            if name not in self.class_names:
                raise KsegError(f"--ignore_categories: {self.shown} has no class {name!r}{suggest(name, self.class_names)}")
        left = tuple(name for name in self.class_names if name not in ignored)
        if not left:
            raise KsegError(f"{self.shown}: every class is ignored, so none is left; shorten --ignore_categories.")
        names = {value: IGNORE if name in ignored else name for value, name in self.names.items()}
        colors = {color: IGNORE if name in ignored else name for color, name in self.colors.items()}
        return replace(self, class_names=left, names=names, colors=colors)

    def binary(self) -> tuple[int, int]:
        """Returns the class indices below and above --label_threshold: of the lower and the higher of the map's two values."""
        values = sorted(value for value, name in self.names.items() if name != IGNORE)
        if len(values) != 2:
            raise KsegError(
                f"--label_threshold: {self.shown} names {len(values)} values; it must name two, the one below the threshold and "
                "the one above, as in 0: background, 1: object"
            )
        return int(self.table[values[0]]), int(self.table[values[1]])

    def meanings(self) -> list[tuple[str, str]]:
        """Returns what each value and colour means, as text."""
        meanings = [(str(value), name) for value, name in self.names.items()]
        meanings += [(" ".join(map(str, color)), name) for color, name in self.colors.items()]
        if self.names and IGNORE_INDEX not in self.names:
            meanings.append((str(IGNORE_INDEX), IGNORE))
        return [(key, "ignored" if name == IGNORE else name) for key, name in meanings]

    def _index(self, name: str) -> int:
        return IGNORE_INDEX if name == IGNORE else self.class_names.index(name)

    def _hint(self, color: list[int]) -> str:
        if len(set(color)) == 1 and color[0] < len(self.class_names):
            return f"; if the images hold class numbers, write a label map of values, such as {color[0]}: NAME"
        return ""

    @functools.cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        """(colours as numbers, ascending, int32 [n]; their class indices, uint8 [n])."""
        codes = _codes(np.array(list(self.colors), np.uint8).reshape(-1, 3))
        order = np.argsort(codes)
        return codes[order], np.array([self._index(name) for name in self.colors.values()], np.uint8)[order]


def build_label_map(names: Mapping[int, str], shown: str, colors: Mapping[Color, str] | None = None) -> LabelMap:
    """Builds a LabelMap from {value: class name or "ignore"} and {RGB: ...}. Several may share a class.

    shown: the source's name in messages. Raises KsegError.
    """
    colors = colors or {}
    listed = [*names.values(), *colors.values()]
    class_names = tuple(dict.fromkeys(name for name in listed if name != IGNORE))
    if not class_names:
        raise KsegError(f"{shown}: names no class. List label values and class names, as in 1: car.")
    if len(class_names) > IGNORE_INDEX:
        raise KsegError(f"{shown}: {len(class_names)} classes are more than {IGNORE_INDEX}; give some of them the name ignore.")
    for name in class_names:
        if not name.strip() or not name.isprintable():
            raise KsegError(f"{shown}: {name!r} is not a class name. Fix the file.")
    for value in names:
        if not 0 <= value <= _MAX_VALUE:
            raise KsegError(f"{shown}: the label value {value} is not between 0 and {_MAX_VALUE}. Fix the file.")
    return LabelMap(class_names, dict(names), shown, dict(colors))


def build_color_map(colors: Sequence[tuple[str, Color]], shown: str, names: Mapping[int, str] | None = None) -> LabelMap:
    """Builds a LabelMap from (class name or "ignore", RGB) pairs. names: of values, too. Raises KsegError."""
    table: dict[Color, str] = {}
    for name, color in colors:
        if table.setdefault(color, name) != name:
            raise KsegError(f"{shown}: the colour {list(color)} is of {table[color]!r} and of {name!r}; give each its own.")
    return build_label_map(names or {}, shown, table)


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns class names as a tuple. Raises KsegError unless they are 1 to 255 different strings that can be printed."""
    if isinstance(class_names, str):
        raise KsegError(f"class_names={class_names!r}: is one string; pass a list of names, such as [{class_names!r}]")
    names = tuple(class_names)
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise KsegError(f"class_names: {name!r} is not a name; pass a list of strings")
        if names.count(name) > 1:
            raise KsegError(f"class_names: {name!r} occurs twice; give every class a name of its own")
    if not 1 <= len(names) <= IGNORE_INDEX:
        raise KsegError(f"class_names: has {len(names)} names; a model has 1 to {IGNORE_INDEX} classes")
    return names


def parse_mapping(content: Mapping[Any, Any], shown: str) -> LabelMap:
    """Builds a LabelMap from {value: name}, {name: value} or {name: RGB}; an RGB is [r, g, b], a list of such, or "#rrggbb".

    Raises KsegError for anything else.
    """
    if any(isinstance(value, (list, tuple)) or (_is_hex(value) and not _is_number(key)) for key, value in content.items()):
        colors = [(_name(key, key, shown), color) for key, value in content.items() for color in _colors(key, value, shown)]
        return build_color_map(colors, shown)
    if all(isinstance(key, str) and not key.strip().isdecimal() and type(value) is int for key, value in content.items()):
        names: dict[int, str] = {}
        for key, value in content.items():
            if names.setdefault(value, key) != key:
                raise KsegError(f"{shown}: the value {value} is of {names[value]!r} and of {key!r}; give each its own.")
        return build_label_map({value: _name(value, name, shown) for value, name in names.items()}, shown)
    return build_label_map({_value(key, shown): _name(key, name, shown) for key, name in content.items()}, shown)


def _codes(pixels: np.ndarray) -> np.ndarray:
    """RGB [..., 3] as one number, int32 [...]."""
    wide = pixels.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _is_number(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and key.strip().isdecimal())


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}([0-9a-fA-F]{2})?", value) is not None


def _colors(key: Any, value: Any, shown: str) -> list[Color]:
    """Returns the colours that a value of the file gives."""
    if _is_hex(value):
        return [hex_to_rgb(value)]
    many = value if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)) else [value]
    for color in many:
        parts = color if isinstance(color, (list, tuple)) else ()
        if len(parts) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in parts):
            raise KsegError(f"{shown}: {key!r} has {color!r}, which is no colour; write [r, g, b] with numbers from 0 to 255.")
    return [tuple(color) for color in many]


def hex_to_rgb(text: str) -> Color:
    """Returns "#rrggbb" as numbers; what follows is left out."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _value(key: Any, shown: str) -> int:
    if isinstance(key, str) and key.strip().isdecimal():
        key = int(key)
    if type(key) is not int:
        raise KsegError(f"{shown}: {key!r} is not a label value; values are integers. Fix the file.")
    return key


def _name(key: Any, name: Any, shown: str) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise KsegError(f"{shown}: the class of value {key}, {name!r}, is not a string; put it in quotes.")
    return name.strip()
