"""Looks below data_dir for files that a flag names wrongly, and says which flag finds them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from kseg.data.image_io import IMAGE_SUFFIXES
from kseg.data.layouts import layout_hint
from kseg.data.paths import printable

_MAX_ENTRIES = 100_000  # files looked at, so that a message does not take minutes
_MAX_DEPTH = 6
_SHOWN = 4
_COCO_KEYS = re.compile(rb'"(images|annotations|categories|info|licenses)"\s*:')
LABEL_FILES = (
    "labelmap.txt", "label_colors.txt", "class_dict.csv", "_classes.csv", "classes.txt", "class_names.txt", "labels.txt",
    "label_names.txt", "obj_class_to_machine_color.json", "dataset_meta.json", "objectInfo150.txt", "meta.json",
    "class_mapping.csv", "label_classes.json", "labels.yaml", "label_map.yaml", "classes.yaml",
)  # fmt: skip
"""Files in which tools name the classes of label images."""


def find_json(root: Path, split: str | None) -> str:
    """Returns what to pass for a missing annotation file, as the end of a message."""
    files = [file for file in _files(root) if file.endswith(".json") and _looks_like_coco(root / file)]
    if files:
        ours = [file for file in files if split and _with_split(file, split) != file]
        shown = _with_split((ours or files)[0], split)
        more = f" ({len(files)} such files are there)" if len(files) > 1 and not ours else ""
        return f"there is {printable((ours or files)[0])}{more}: pass --annotations={_quoted(shown)}"
    if hint := layout_hint(root):
        return f"it looks like another kind of data set: pass {hint}"
    if folders := image_folders(root):
        return f"it has no COCO file, but images in {_listed(folders)}: with label images among them, pass --dataset=folder"
    return "it has neither COCO files nor images; check --data_dir"


def find_image(root: Path, name: str, split: str | None) -> str:
    """Returns what to pass for --images when an image is missing, as the end of a message. name: a relative path."""
    base = Path(name).name
    same = [file for file in _files(root) if file == base or file.endswith(f"/{base}")]
    for file in sorted(same, key=len):
        if file == name or file.endswith(f"/{name}"):
            return (
                f"{printable(file)} is there: pass --images={_quoted(_with_split(file[: -len(name)].rstrip('/') or '.', split))}"
            )
    if same:
        return f"there is {printable(min(same, key=len))}, but the file names it {printable(name)}; correct the file_name entries"
    folders = image_folders(root)
    if not folders:
        return "there are no images below data_dir; check --data_dir"
    return f"no such file is below data_dir, which has images in {_listed(folders)}; check --data_dir and the file_name entries"


def find_same_name(root: Path, name: str) -> str | None:
    """Returns the first file below root with the last part of a name, or None."""
    base = Path(name).name
    return next((printable(file) for file in _files(root) if file == base or file.endswith(f"/{base}")), None)


def find_folder(root: Path, flag: str, split: str | None) -> str:
    """Returns what to pass for a folder of images or label images that does not exist, as the end of a message."""
    if hint := layout_hint(root):
        return f"it looks like a known layout: pass {hint}"
    folders = image_folders(root)
    if not folders:
        return "there are no images below data_dir; check --data_dir"
    shown = " or ".join(f"--{flag}={_quoted(_with_split(folder, split))}" for folder, _ in folders[:_SHOWN])
    return f"it has images in {_listed(folders)}: pass {shown}"


def find_label_file(root: Path) -> str | None:
    """Returns the first file below a folder in which a tool may have named the classes, or None."""
    found = [file for file in _files(root) if file.rpartition("/")[2] in LABEL_FILES]
    return min(found, key=lambda file: (file.count("/"), file), default=None)


def image_folders(root: Path) -> list[tuple[str, int]]:
    """Returns the folders below root that hold images, and how many each."""
    counts: dict[str, int] = {}
    for file in _files(root):
        if file.lower().endswith(IMAGE_SUFFIXES):
            folder = file.rpartition("/")[0] or "."
            counts[folder] = counts.get(folder, 0) + 1
    return sorted(counts.items())


def _files(root: Path) -> Iterator[str]:
    """Yields the files below root, without hidden ones, by their path below it."""
    seen = 0
    for parent, folders, files in os.walk(root):
        inner = Path(parent).relative_to(root)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(inner.parts) < _MAX_DEPTH else []
        for name in sorted(files):
            seen += 1
            if seen > _MAX_ENTRIES:
                return
            if not name.startswith("."):
                yield (inner / name).as_posix()


def _looks_like_coco(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _COCO_KEYS.search(opened.read(2**12)) is not None
    except OSError:
        return False


def _with_split(path: str, split: str | None) -> str:
    """Returns the path with {split} where the split's name stands in it."""
    return re.sub(rf"(?<![A-Za-z]){re.escape(split)}(?![A-Za-z])", "{split}", path) if split else path


def _listed(folders: list[tuple[str, int]]) -> str:
    more = f" and {len(folders) - _SHOWN} other folders" if len(folders) > _SHOWN else ""
    return ", ".join(f"{printable(folder)} ({count})" for folder, count in folders[:_SHOWN]) + more


def _quoted(text: str) -> str:
    """Returns a flag's value for a shell, which would expand braces and stars."""
    return f"'{text}'" if set(text) & set("{}* ") or text == "." else text
