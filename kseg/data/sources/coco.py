"""Data sets in COCO's JSON format: instance or semantic annotations -> label maps, for images in a folder.

Defects of the file as a whole are a KsegError when the data set is built. Defects of one image or of its annotations make that
sample a bad one: `load` raises it, `kseg.data.check` stops at it or leaves it out.
"""

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import read_image
from kseg.data.registry import register_dataset
from kseg.data.sources import coco_masks
from kseg.utils.errors import KsegError, suggest

MAX_CLASSES = 255
"""Labels are uint8 and 255 is the ignore index."""
MAX_PIXELS = 2**28
"""Images that the JSON states to be larger are bad samples: pycocotools computes with 32-bit ints."""
LABEL_VERSION = 1
"""Raise it with every change of what is painted: cached label maps depend on it."""

_KEPT = frozenset(
    ("images", "annotations", "categories", "id", "file_name", "height", "width", "name", "image_id", "category_id",
     "segmentation", "size", "counts")
)  # fmt: skip


class CocoDataset:
    """One split of a data set in COCO format, as a kseg.data.dataset.Dataset.

    Polygons (several an annotation, clipped where they leave the image), compressed and uncompressed RLE are read; crowds are
    painted like any other annotation. Where masks overlap, the one of larger area (in pixels of the mask) is painted first and
    the smaller one over it; equal areas in the order of the file. EXIF orientation: see kseg.data.image_io.read_image.

    Args:
        data_dir: the folder that the two patterns start from.
        split: what replaces `{split}` in them.
        annotations: pattern of the JSON file.
        images: pattern of the folder that `file_name` starts from.
        background: True makes pixels that no annotation covers class 0, "background", and the categories, by ascending id,
            classes 1, 2, ...; False makes such pixels ignore_index and the categories classes 0, 1, ....
        ignore_categories: names of categories whose pixels become ignore_index and that are no classes; a name stands for every
            category of that name, digits that are no category's name for the category of that id.

        max_pixels: see kseg.data.image_io.read_image.

    Attributes:
        class_names: name of each class, all distinct: categories that share a name get their id behind it, "facade [3]".
        ignore_index: 255.
        labelled: False if the file has no annotations at all; the label maps are then empty.
        image_ids, category_ids: the file's id of each image, and of each class; None for the background.
        warnings: lines to show the user.

    Raises:
        KsegError: if the folder or file is missing, or the file as a whole is not what it should be.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        *,
        annotations: str = "annotations/{split}.json",
        images: str = "images/{split}",
        background: bool = True,
        ignore_categories: Sequence[str] = (),
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self._fill = 0 if background else IGNORE_INDEX
        self._shown_file = fill_in(annotations, split, "annotations")
        self._shown_images = fill_in(images, split, "images")
        file = _find_file(data_dir, self._shown_file, self._shown_images, annotations)
        self._root = Path(data_dir).expanduser()
        self._images = self._root / self._shown_images
        self._resolved = (self._root.resolve(), self._images.resolve())

        self._max_pixels = max_pixels
        content, self._digest = _read_json(file, self._shown_file)
        categories = _by_id(content["categories"], "category", self._shown_file, {"name": str})
        self.class_names, self._values = _classes(categories, background, ignore_categories, self._shown_file)
        ids = {value: id_ for id_, value in self._values.items()}
        self.category_ids = tuple(ids.get(value) for value in range(len(self.class_names)))
        self.labelled = bool(content["annotations"])
        self._bad: dict[int, str] = {}
        self._index_images(content["images"])
        self._index_annotations(content["annotations"])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The image's file_name."""
        return self._names[index]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) as the JSON states it; `load` raises BadSample where the image differs."""
        return self._sizes[index]

    def load(self, index: int) -> Sample:
        """Reads sample `index`. Raises BadSample, with a line that names the file or annotation, if it cannot be used."""
        index = range(len(self))[index]  # IndexError beyond the end; a negative one becomes the place.
        return Sample(self.load_image(index), self.load_label(index), self._names[index])

    def load_image(self, index: int) -> np.ndarray:
        """The image of sample `index`, uint8 [H, W, 3]. Raises BadSample as `load`."""
        path, shown = self._path(index)
        return read_image(path, shown, self._sizes[index], stated_in=self._shown_file, max_pixels=self._max_pixels)

    def image_bytes(self, index: int) -> bytes:
        """The image file's content."""
        return self._path(index)[0].read_bytes()

    def load_label(self, index: int) -> np.ndarray:
        """The label map of sample `index`, uint8 [H, W], without looking at its image. Raises BadSample as `load`."""
        if index in self._bad:
            raise BadSample(self._bad[index])
        return self._paint(index)

    @property
    def label_key(self) -> str:
        """Text that changes with whatever decides the label maps: the file's bytes and the settings."""
        return f"{self._digest}-{self._fill}-{sorted(self._values.items())}-v{LABEL_VERSION}"

    def _path(self, index: int) -> tuple[Path, str]:
        """(the image's file, what messages call it); raises BadSample if it is not one to read."""
        if index in self._bad:
            raise BadSample(self._bad[index])
        shown = self._shown_image(index)
        path = self._images / self._names[index]
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError):  # A loop of links.
            raise BadSample(f"{shown}: is a link that leads nowhere.") from None
        if not any(resolved.is_relative_to(folder) for folder in self._resolved):
            raise BadSample(f"{shown}: is a link that leaves the data set's folder.")
        return path, shown

    def overlap(self, index: int) -> int:
        """Pixels of the sample that more than one annotation covers. Raises BadSample if an annotation cannot be used."""
        height, width = self._sizes[index]
        covered = np.zeros((height, width), np.int32)
        for runs in self._masks(index)[0]:
            covered += coco_masks.to_mask(runs, height, width)
        return int((covered > 1).sum())

    def _paint(self, index: int) -> np.ndarray:
        return coco_masks.paint(*self._masks(index), *self._sizes[index], fill=self._fill)

    def _masks(self, index: int) -> tuple[list[np.ndarray], list[int]]:
        """(run lengths, value) of each annotation."""
        masks, values = [], []
        for annotation, value, segmentation in self._annotations[index]:
            try:
                masks.append(coco_masks.to_runs(segmentation, *self._sizes[index]))
            except coco_masks.BadMask as error:
                raise BadSample(self._describe(annotation, index, error)) from None
            values.append(value)
        return masks, values

    def _index_images(self, entries: list[Any]) -> None:
        """Fills in the images' names, sizes and places, and notes those that cannot be right."""
        images = _by_id(entries, "image", self._shown_file, {"file_name": str, "height": int, "width": int})
        if not images:
            raise KsegError(f"{self._shown_file}: lists no images; choose another split or file.")
        self._places = {id_: place for place, id_ in enumerate(images)}
        self.image_ids = tuple(images)
        self._names = [entry["file_name"] for entry in images.values()]
        self._sizes = [(entry["height"], entry["width"]) for entry in images.values()]
        for place, (id_, entry) in enumerate(images.items()):
            if reason := unsafe(entry["file_name"]):
                name = printable(entry["file_name"])
                self._bad[place] = f"{self._shown_file}: image {id_} has the file_name {name}, which {reason}."
            elif min(self._sizes[place]) < 1 or entry["width"] * entry["height"] > MAX_PIXELS:
                size = f"{entry['width']}x{entry['height']}"
                self._bad[place] = f"{self._shown_file}: image {id_} has the size {size}, which no image can have."

    def _index_annotations(self, entries: list[Any]) -> None:
        """Groups the annotations by image, in compact form; notes the malformed ones."""
        annotations = _by_id(entries, "annotation", self._shown_file, {"image_id": int, "category_id": int})
        self._annotations: list[list[tuple[int, int, coco_masks.Segmentation]]] = [[] for _ in self._names]
        leaving: list[int] = []
        for id_, entry in annotations.items():
            place = self._places.get(entry["image_id"])
            if place is None:
                raise KsegError(
                    f"{self._shown_file}: annotation {id_} is of image {entry['image_id']}, which the file does not define. "
                    "Fix the file."
                )
            if place in self._bad:
                continue
            value = self._values.get(entry["category_id"])
            if value is None:
                self._bad[place] = (
                    f"{self._shown_file}: annotation {id_} names category {entry['category_id']}, which the file does not define."
                )
                continue
            try:
                segmentation = coco_masks.read_segmentation(entry.get("segmentation"), *self._sizes[place])
            except coco_masks.BadMask as error:
                self._bad[place] = self._describe(id_, place, error)
                continue
            self._annotations[place].append((id_, value, segmentation))
            leaving += [id_] * coco_masks.count_leaving(segmentation, *self._sizes[place])
        self.warnings: tuple[str, ...] = ()
        if leaving:
            many = "1 polygon leaves its image" if len(leaving) == 1 else f"{len(leaving)} polygons leave their image"
            verb = "is" if len(leaving) == 1 else "are"
            self.warnings = (f"{self._shown_file}: {many} (first: annotation {leaving[0]}) and {verb} clipped.",)

    def _shown_image(self, index: int) -> str:
        return printable(os.path.normpath(f"{self._shown_images}/{self._names[index]}"))

    def _describe(self, annotation: int, index: int, reason: Exception) -> str:
        return f"{self._shown_file}: annotation {annotation} (image {self._shown_image(index)}): {reason}."


@register_dataset("coco")
def open_coco(config: DataConfig, split: str) -> CocoDataset:
    """Opens a data set with a COCO annotation file and a folder of images for each split."""
    assert config.data_dir is not None  # DataConfig requires it
    return CocoDataset(
        config.data_dir,
        split,
        annotations=config.annotations,
        images=config.images,
        background=config.background,
        ignore_categories=config.ignore_categories,
        max_pixels=config.max_pixels,
    )


def fill_in(pattern: str, split: str, argument: str) -> str:
    """`pattern` with `{split}` replaced; braces mean nothing else."""
    if {"{", "}"} & set(pattern.replace("{split}", "")):
        raise KsegError(f"{argument}: {pattern!r} has braces that are not {{split}}, the only placeholder.")
    return pattern.replace("{split}", split)


def _find_file(data_dir: str | os.PathLike[str] | None, shown: str, images: str, pattern: str) -> Path:
    """The annotation file; if it is not there, raises KsegError with what was looked for and what there is instead."""
    wanted = f"the folder that holds {shown} and, in {images}, the images"
    if not data_dir or not os.fspath(data_dir).strip():
        raise KsegError(f"no data_dir is given; pass --data_dir=DIR, {wanted}.")
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise KsegError(
            f"data_dir {data_dir} {'is not a folder' if root.exists() else 'does not exist'}; pass --data_dir=DIR, {wanted}."
        )
    file = root / shown
    if file.is_file():
        return file
    if not any(root.iterdir()):
        raise KsegError(f"data_dir {data_dir} is empty; pass --data_dir=DIR, {wanted}.")
    before, placeholder, after = pattern.partition("{split}")
    found: list[str] = []
    if placeholder and "{split}" not in after and not Path(pattern).is_absolute():
        paths = (path.relative_to(root).as_posix() for path in root.glob(glob.escape(before) + "*" + glob.escape(after)))
        found = sorted(path[len(before) : len(path) - len(after)] for path in paths)
    if found:
        raise KsegError(f"data_dir {data_dir} has no file {shown}; splits that are there: {', '.join(map(printable, found))}.")
    raise KsegError(f"data_dir {data_dir} has no file {shown}, nor another that fits {pattern}; pass --data_dir=DIR, {wanted}.")


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """Drops what is not read and packs polygons while the file is parsed: as Python floats they would take 2 GB a million."""
    kept = {key: entry[key] for key in entry if key in _KEPT}
    if type(polygons := kept.get("segmentation")) is list:
        kept["segmentation"] = coco_masks.pack(polygons)
    return kept


def _read_json(file: Path, shown: str) -> tuple[dict[str, list[Any]], str]:
    """(the file's content, with lists under "images", "annotations" and "categories"; SHA-256 of its bytes)."""
    try:
        raw = file.read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        text = raw.decode(json.detect_encoding(raw), "surrogatepass").removeprefix("\ufeff")
        del raw
        content = json.loads(text, object_hook=_compact)
    except OSError as error:
        raise KsegError(f"{shown}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:  # Not JSON, not Unicode, a number of thousands of digits, nested too deep.
        raise KsegError(f"{shown}: is not valid JSON ({error}). Fix the file.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise KsegError(f'{shown}: is not in COCO format: it has no list "{key}". Fix the file, or choose another.')
    return content, digest


def _by_id(entries: list[Any], kind: str, shown: str, fields: dict[str, type]) -> dict[int, dict[str, Any]]:
    """Entries by their id, in the order of the file; raises KsegError if an id occurs twice or a field is not of its type."""
    result: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int:  # Not isinstance: True is no id.
            raise KsegError(f'{shown}: {kind} number {number} of the list has no "id" that is a whole number. Fix the file.')
        id_ = entry["id"]
        if id_ in result:
            raise KsegError(f"{shown}: {kind} id {id_} occurs twice. Fix the file.")
        for field, wanted in fields.items():
            if type(entry.get(field)) is not wanted:
                what = "a whole number" if wanted is int else "a text"
                raise KsegError(f'{shown}: {kind} {id_} has no "{field}" that is {what}. Fix the file.')
        result[id_] = entry
    return result


def _classes(
    categories: dict[int, dict[str, Any]], background: bool, ignored: Sequence[str], shown: str
) -> tuple[tuple[str, ...], dict[int, int]]:
    """(class_names, label value of each category id)."""
    names = {id_: categories[id_]["name"] for id_ in sorted(categories)}
    values: dict[int, int] = {}
    for wanted in map(str, ignored):
        ids = [id_ for id_, name in names.items() if name == wanted] or [id_ for id_ in names if str(id_) == wanted]
        if not ids:
            raise KsegError(f"ignore_categories: {shown} has no category {wanted!r}{suggest(wanted, set(names.values()))}")
        values.update(dict.fromkeys(ids, IGNORE_INDEX))
    kept = [id_ for id_ in names if id_ not in values]
    class_names = (["background"] if background else []) + [names[id_] for id_ in kept]
    if not kept:
        raise KsegError(f"{shown}: {'every category is ignored' if names else 'defines no categories'}, so no class is left.")
    if len(class_names) > MAX_CLASSES:
        raise KsegError(
            f"{shown}: {len(class_names)} classes are more than {MAX_CLASSES}; leave some out with ignore_categories."
        )
    first = len(class_names) - len(kept)
    while len(set(class_names)) < len(class_names):  # Again if a name with its id is a name that was there before.
        shared = {name for name, count in Counter(class_names).items() if count > 1}
        class_names[first:] = [
            f"{name} [{id_}]" if name in shared else name for id_, name in zip(kept, class_names[first:], strict=True)
        ]
    values.update({id_: first + place for place, id_ in enumerate(kept)})
    return tuple(class_names), values


def unsafe(file_name: str) -> str | None:
    """Why a file_name is refused, None if it is not; links are looked at when the file is read."""
    path = Path(os.path.normpath(file_name))
    if not file_name.strip() or not path.parts:
        return "names no file"
    if path.is_absolute() or path.parts[0] == os.pardir:
        return "leaves the folder of the images"
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError:
        return "no file can have"
    if "\0" in file_name:
        return "no file can have"
    return None


def printable(text: str) -> str:
    """`text` for a message: on one line whatever it holds."""
    return text if text.isprintable() else ascii(text)
