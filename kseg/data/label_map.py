"""The file of --label_map: which class, or none, each value of a label image stands for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kseg.data.dataset import IGNORE_INDEX, BadSample
from kseg.utils.errors import KsegError

IGNORE = "ignore"
"""The name that makes a value's pixels ignored."""
_MAX_BYTES = 2**20
_MAX_VALUE = 2**16 - 1


@dataclass(frozen=True)
class LabelMap:
    """Label values -> classes.

    class_names: in the order in which the file first names them. table: int16 [65536], class index, IGNORE_INDEX, or -1 for a
    value that the file does not list. shown: what messages call the file.
    """

    class_names: tuple[str, ...]
    table: np.ndarray
    shown: str

    def __call__(self, values: np.ndarray, shown: str) -> np.ndarray:
        """uint8 [H, W] of values [H, W]; raises BadSample for a value that is neither a class nor ignored."""
        label = self.table[values]
        if label.min(initial=0) < 0:
            row, column = np.argwhere(label < 0)[0]
            raise BadSample(
                f"{shown}: the pixel in row {row}, column {column} has the value {values[row, column]}, "
                f"which {self.shown} neither names nor ignores."
            )
        return label.astype(np.uint8)


def build_label_map(names: dict[int, str], shown: str) -> LabelMap:
    """A LabelMap of {value: class name, or "ignore"}; 255 is ignored unless it is named. Several values may share a class."""
    class_names = tuple(dict.fromkeys(name for name in names.values() if name != IGNORE))
    if not class_names:
        raise KsegError(f"{shown}: names no class. List label values and class names, such as 1: car.")
    if len(class_names) > IGNORE_INDEX:
        raise KsegError(f"{shown}: {len(class_names)} classes are more than {IGNORE_INDEX}; give some of them the name ignore.")
    table = np.full(_MAX_VALUE + 1, -1, np.int16)
    table[255] = IGNORE_INDEX
    for value, name in names.items():
        if not 0 <= value <= _MAX_VALUE:
            raise KsegError(f"{shown}: the label value {value} is not between 0 and {_MAX_VALUE}. Fix the file.")
        table[value] = IGNORE_INDEX if name == IGNORE else class_names.index(name)
    return LabelMap(class_names, table, shown)


def read_label_map(file: str) -> LabelMap:
    """Reads .yaml, .yml or .json, {value: name}, or .txt, a class name a line from value 0 on. Raises KsegError."""
    path = Path(file).expanduser()
    shown = f"--label_map={file}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise KsegError(f"{shown}: is larger than {_MAX_BYTES} bytes, which no such file is. Name the right file.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KsegError(f"{shown}: cannot be read ({error.strerror}). Name a YAML, JSON or text file.") from None
    except UnicodeDecodeError:
        raise KsegError(f"{shown}: is not a text in UTF-8. Name a YAML, JSON or text file.") from None
    if path.suffix == ".txt":
        return build_label_map(dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), path.name)
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise KsegError(f"{shown}: cannot be read ({' '.join(str(error).split())}). Fix the file.") from None
    if not isinstance(content, dict):
        raise KsegError(f"{shown}: is not a mapping of label values to class names. Write lines such as 1: car.")
    return build_label_map({_value(key, shown): _name(key, name, shown) for key, name in content.items()}, path.name)


def _value(key: Any, shown: str) -> int:
    if isinstance(key, str) and key.strip().isdecimal():
        key = int(key)
    if type(key) is not int:
        raise KsegError(f"{shown}: {key!r} is no label value; values are whole numbers. Fix the file.")
    return key


def _name(key: Any, name: Any, shown: str) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise KsegError(f"{shown}: the class of value {key}, {name!r}, is not a name; put it in quotes if it is one.")
    return name.strip()
