"""The file of --label_map: the class of each value of a label image."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kseg.data.dataset import IGNORE_INDEX, BadSample
from kseg.utils.errors import KsegError

IGNORE = "ignore"
"""The class name for values whose pixels are ignored."""
_MAX_BYTES = 2**20
_MAX_VALUE = 2**16 - 1


@dataclass(frozen=True)
class LabelMap:
    """Maps the values of a label image to class indices.

    class_names: in the order in which the file first names them. table: int16 [65536], class index, IGNORE_INDEX, or -1 for a
    value that the file does not list. shown: the file's name in messages. names: {value: class name or "ignore"}, as listed.
    """

    class_names: tuple[str, ...]
    table: np.ndarray
    shown: str
    names: Mapping[int, str]

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


def build_label_map(names: dict[int, str], shown: str) -> LabelMap:
    """Builds a LabelMap from {value: class name or "ignore"}. Several values may share a class; 255 is ignored unless listed.

    shown: the source's name in messages. Raises KsegError.
    """
    class_names = tuple(dict.fromkeys(name for name in names.values() if name != IGNORE))
    if not class_names:
        raise KsegError(f"{shown}: names no class. List label values and class names, as in 1: car.")
    if len(class_names) > IGNORE_INDEX:
        raise KsegError(f"{shown}: {len(class_names)} classes are more than {IGNORE_INDEX}; give some of them the name ignore.")
    table = np.full(_MAX_VALUE + 1, -1, np.int16)
    table[255] = IGNORE_INDEX
    for value, name in names.items():
        if not 0 <= value <= _MAX_VALUE:
            raise KsegError(f"{shown}: the label value {value} is not between 0 and {_MAX_VALUE}. Fix the file.")
        table[value] = IGNORE_INDEX if name == IGNORE else class_names.index(name)
    return LabelMap(class_names, table, shown, dict(names))


def read_label_map(file: str) -> LabelMap:
    """Reads {value: name} from .yaml, .yml or .json, or one name a line for values 0, 1, ... from .txt. Raises KsegError."""
    path = Path(file).expanduser()
    shown = f"--label_map={file}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise KsegError(f"{shown}: is larger than {_MAX_BYTES} bytes, so it is not a label map. Name another file.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KsegError(f"{shown}: cannot be read ({error.strerror}). Name a YAML, JSON or text file.") from None
    except UnicodeDecodeError:
        raise KsegError(f"{shown}: is not a text file in UTF-8. Name a YAML, JSON or text file.") from None
    if path.suffix == ".txt":
        return build_label_map(dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), path.name)
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise KsegError(f"{shown}: cannot be read ({' '.join(str(error).split())}). Fix the file.") from None
    if not isinstance(content, dict):
        raise KsegError(f"{shown}: is not a mapping of label values to class names. Write lines as in 1: car.")
    return build_label_map({_value(key, shown): _name(key, name, shown) for key, name in content.items()}, path.name)


def as_label_map(
    label_map: "LabelMap | str | os.PathLike[str] | Mapping[int, str] | None", class_names: Sequence[str] | None
) -> LabelMap:
    """Returns the label map that a data source was given, from Python or by its flag.

    label_map: a LabelMap, its file, or {value: class name or "ignore"}. class_names: instead of it, the names of the values 0, 1,
    .... Raises KsegError unless one of the two is given.
    """
    if (label_map is None) == (class_names is None):
        what = "both label_map and class_names are given; keep one" if class_names is not None else "the classes have no names"
        raise KsegError(f"{what}: class_names=['road', 'car'] names the label values 0, 1, ...; label_map=FILE, or a dict, any")
    if class_names is not None:
        return build_label_map(dict(enumerate(check_class_names(class_names))), "class_names")
    if isinstance(label_map, Mapping):
        return build_label_map(
            {_value(key, "label_map"): _name(key, name, "label_map") for key, name in label_map.items()}, "label_map"
        )
    return read_label_map(os.fspath(label_map)) if isinstance(label_map, (str, os.PathLike)) else label_map  # type: ignore[return-value]


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
