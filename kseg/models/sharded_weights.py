"""Reads the weights of a folder of Hugging Face transformers: one file, or several with an index; safetensors, else .bin."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kseg.models.folder_files import FolderFiles
from kseg.models.pytorch.load import read_state_dict
from kseg.utils.errors import KsegError

FILES = ("model.safetensors", "pytorch_model.bin")
"""The files that may hold all weights, in the order in which they are looked for. Each may have an index of parts instead."""
MAX_INDEX = 2**22  # bytes
_MAX_PARTS = 64


def read_weights(files: FolderFiles, limit: int) -> tuple[dict[str, Any], str]:
    """Returns arrays by key, and the name of the file, or of its index, for messages.

    limit: bytes of all parts together. Raises KsegError for a file that is missing, too large, damaged or outside the folder.
    """
    for name in FILES:
        if files.has(name):
            return dict(_read(files, name, limit)[0]), files.shown(name)
        if files.has(index := f"{name}.index.json"):
            return _read_parts(files, index, name, limit), files.shown(index)
    raise KsegError(f"{files.name}: has no weights: neither {FILES[0]} nor {FILES[1]}, nor an index of either")


def _read(files: FolderFiles, name: str, limit: int) -> tuple[Mapping[str, Any], int]:
    """Returns the arrays of a file, and its size."""
    path = files.get(name, limit)
    size = _unpacked(path)
    if size > limit:
        raise KsegError(f"{files.shown(name)}: unpacks to {size} bytes; the model that config.json describes has at most {limit}")
    try:
        return read_state_dict(path), size
    except KsegError as error:
        raise KsegError(str(error).replace(str(path), files.shown(name), 1)) from None


def _unpacked(path: Path) -> int:
    """Returns the bytes that a file takes when it is read: torch's files are zip archives, which may be compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return path.stat().st_size


def _read_parts(files: FolderFiles, index: str, name: str, limit: int) -> dict[str, Any]:
    """Returns the arrays of all parts that an index names. name: of the whole file, whose parts have names like it."""
    places, shown = _read_index(files, index, name), files.shown(index)
    found: dict[str, Any] = {}
    for part in sorted(set(places.values())):
        arrays, size = _read(files, part, limit)
        limit -= size
        expected = {key for key, place in places.items() if place == part}
        if differing := sorted(expected ^ set(arrays)):
            where = "the index names it, the file lacks it" if differing[0] in expected else "the index does not name it"
            raise KsegError(f"{files.shown(part)}: does not fit {shown}: {differing[0][:80]!r}: {where}")
        found |= arrays
    return found


def _read_index(files: FolderFiles, index: str, name: str) -> dict[str, str]:
    """Returns the part's file name by key. Raises KsegError for anything but files beside the index."""
    stem, _, suffix = name.rpartition(".")
    shown = files.shown(index)
    try:
        places = json.loads(files.get(index, MAX_INDEX).read_bytes())["weight_map"]
    except KsegError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise KsegError(f"{shown}: is no index of weights, or a damaged one") from None
    if not isinstance(places, dict) or not places:
        raise KsegError(f"{shown}: is no index of weights, or a damaged one")
    for place in places.values():
        if not (isinstance(place, str) and re.fullmatch(rf"{re.escape(stem)}-[\w-]+\.{suffix}", place)):
            raise KsegError(f"{shown}: names a file {str(place)[:80]!r}; expected parts like {stem}-00001-of-00002.{suffix}")
    if len(set(places.values())) > _MAX_PARTS:
        raise KsegError(f"{shown}: names {len(set(places.values()))} files; at most {_MAX_PARTS} are read")
    return places
