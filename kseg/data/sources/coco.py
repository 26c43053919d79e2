"""Data sets in COCO's JSON format: instance or semantic annotations -> label maps, for images in a folder.

A mistake that concerns the whole file raises KsegError when the data set is built. A mistake in one image or in its annotations
makes that sample bad: `load` raises BadSample, and kseg.data.check stops there or leaves the sample out.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import read_image
from kseg.data.paths import check_link, fill_in, printable, unsafe
from kseg.data.registry import register_dataset
from kseg.data.sources import coco_masks
from kseg.data.sources.coco_json import assign_classes, index_by_id, read_coco
from kseg.utils.errors import KsegError

MAX_PIXELS = 2**28
"""Larger images are bad samples, by the size in the JSON: pycocotools computes with 32-bit integers."""
LABEL_VERSION = 1
"""Raise it with every change of the painted label maps: cached ones depend on it."""


class CocoDataset:
    """One split of a data set in COCO format, as a kseg.data.dataset.Dataset.

    Reads polygons (several an annotation, clipped where they leave the image), compressed and uncompressed RLE. Crowds are
    painted like any other annotation. Where masks overlap, the one of larger area (in pixels of the mask) is painted first and
    the smaller one over it; equal areas are painted in file order. EXIF orientation: see kseg.data.image_io.read_image.

    Args:
        data_dir: the folder that the two patterns start from.
        split: replaces `{split}` in the patterns; None for patterns without it.
        annotations: pattern of the JSON file; by default `annotations/{split}.json`, without a split `annotations.json`.
        images: pattern of the folder that `file_name` starts from; by default `images/{split}`, without a split `images`.
        background: True makes pixels that no annotation covers class 0, "background", and the categories, by ascending id,
            classes 1, 2, ...; False makes such pixels ignore_index and the categories classes 0, 1, ....
        ignore_categories: categories whose pixels become ignore_index and that are no classes. A name stands for every category
            of that name; digits that are not a name stand for the category with that id.
        max_pixels: see kseg.data.image_io.read_image.

    Attributes:
        class_names: name of each class, all distinct: categories that share a name get their id behind it, "facade [3]".
        ignore_index: 255.
        labelled: False if the file has no annotations at all; the label maps are then empty.
        image_ids, category_ids: the file's id of each image, and of each class; None for the background.
        warnings: lines to show the user.

    Raises:
        KsegError: if the folder or file is missing, or if the file as a whole is malformed.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str | None = None,
        *,
        annotations: str | None = None,
        images: str | None = None,
        background: bool = True,
        ignore_categories: Sequence[str] = (),
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self._fill = 0 if background else IGNORE_INDEX
        annotations = annotations or ("annotations.json" if split is None else "annotations/{split}.json")
        images = images or ("images" if split is None else "images/{split}")
        self._shown_file = fill_in(annotations, split, "annotations")
        self._shown_images = fill_in(images, split, "images")
        file = _find_file(data_dir, self._shown_file, self._shown_images, annotations)
        root = Path(data_dir).expanduser()
        self._images = root / self._shown_images
        self._folders = (root.resolve(), self._images.resolve())
        self._max_pixels = max_pixels

        content, self._digest = read_coco(file, self._shown_file)
        categories = index_by_id(content["categories"], "category", self._shown_file, {"name": str})
        self.class_names, self._values = assign_classes(categories, background, ignore_categories, self._shown_file)
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
        index = range(len(self))[index]  # raises IndexError beyond the end; a negative index counts from it
        return Sample(self.load_image(index), self.load_label(index), self._names[index])

    def load_image(self, index: int) -> np.ndarray:
        """Reads the image, uint8 [H, W, 3]. Raises BadSample."""
        path, shown = self._path(index)
        return read_image(path, shown, self._sizes[index], stated_in=self._shown_file, max_pixels=self._max_pixels)

    def image_bytes(self, index: int) -> bytes:
        """The image file's content."""
        return self._path(index)[0].read_bytes()

    def load_label(self, index: int) -> np.ndarray:
        """Paints the label map, uint8 [H, W], without reading the image. Raises BadSample."""
        if index in self._bad:
            raise BadSample(self._bad[index])
        return coco_masks.paint(*self._masks(index), *self._sizes[index], fill=self._fill)

    @property
    def label_key(self) -> str:
        """A string that changes with the label maps: the file's digest and the settings."""
        return f"{self._digest}-{self._fill}-{sorted(self._values.items())}-v{LABEL_VERSION}"

    def overlap(self, index: int) -> int:
        """Counts the pixels that more than one annotation covers. Raises BadSample if an annotation cannot be used."""
        height, width = self._sizes[index]
        covered = np.zeros((height, width), np.int32)
        for runs in self._masks(index)[0]:
            covered += coco_masks.to_mask(runs, height, width)
        return int((covered > 1).sum())

    def _path(self, index: int) -> tuple[Path, str]:
        """(the image's file, its name in messages). Raises BadSample if the file must not be read."""
        if index in self._bad:
            raise BadSample(self._bad[index])
        path, shown = self._images / self._names[index], self._shown_image(index)
        check_link(path, self._folders, shown)
        return path, shown

    def _masks(self, index: int) -> tuple[list[np.ndarray], list[int]]:
        """(run lengths, label value) of each annotation."""
        masks, values = [], []
        for annotation, value, segmentation in self._annotations[index]:
            try:
                masks.append(coco_masks.to_runs(segmentation, *self._sizes[index]))
            except coco_masks.BadMask as error:
                raise BadSample(self._describe(annotation, index, error)) from None
            values.append(value)
        return masks, values

    def _index_images(self, entries: list[Any]) -> None:
        """Fills in the images' names and sizes, and notes those that cannot be right."""
        images = index_by_id(entries, "image", self._shown_file, {"file_name": str, "height": int, "width": int})
        if not images:
            raise KsegError(f"{self._shown_file}: lists no images; choose another split or file.")
        self.image_ids = tuple(images)
        self._names = [entry["file_name"] for entry in images.values()]
        self._sizes = [(entry["height"], entry["width"]) for entry in images.values()]
        for index, (id_, entry) in enumerate(images.items()):
            if reason := unsafe(entry["file_name"]):
                name = printable(entry["file_name"])
                self._bad[index] = f"{self._shown_file}: image {id_} has the file_name {name}, which {reason}."
            elif min(self._sizes[index]) < 1 or entry["width"] * entry["height"] > MAX_PIXELS:
                size = f"{entry['width']}x{entry['height']}"
                self._bad[index] = f"{self._shown_file}: image {id_} has the size {size}, which no image can have."

    def _index_annotations(self, entries: list[Any]) -> None:
        """Groups the annotations by image, in compact form, and notes malformed ones."""
        annotations = index_by_id(entries, "annotation", self._shown_file, {"image_id": int, "category_id": int})
        indices = {id_: index for index, id_ in enumerate(self.image_ids)}
        self._annotations: list[list[tuple[int, int, coco_masks.Segmentation]]] = [[] for _ in self._names]
        clipped: list[int] = []
        for id_, entry in annotations.items():
            index = indices.get(entry["image_id"])
            if index is None:
                raise KsegError(
                    f"{self._shown_file}: annotation {id_} is of image {entry['image_id']}, which the file does not define. "
                    "Fix the file."
                )
            if index in self._bad:
                continue
            value = self._values.get(entry["category_id"])
            if value is None:
                self._bad[index] = (
                    f"{self._shown_file}: annotation {id_} names category {entry['category_id']}, which the file does not define."
                )
                continue
            try:
                segmentation = coco_masks.read_segmentation(entry.get("segmentation"), *self._sizes[index])
            except coco_masks.BadMask as error:
                self._bad[index] = self._describe(id_, index, error)
                continue
            self._annotations[index].append((id_, value, segmentation))
            clipped += [id_] * coco_masks.count_outside(segmentation, *self._sizes[index])
        self.warnings: tuple[str, ...] = ()
        if clipped:
            number = "1 polygon" if len(clipped) == 1 else f"{len(clipped)} polygons"
            self.warnings = (f"{self._shown_file}: clipped {number} at the image's border (first: annotation {clipped[0]}).",)

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


def _find_file(data_dir: str | os.PathLike[str] | None, shown: str, images: str, pattern: str) -> Path:
    """Returns the annotation file. If it is missing, raises KsegError with the expected file and the splits that exist."""
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
        raise KsegError(f"data_dir {data_dir} has no file {shown}; choose another split: {', '.join(map(printable, found))}.")
    raise KsegError(f"data_dir {data_dir} has no file {shown}, nor any other that fits {pattern}; pass --data_dir=DIR, {wanted}.")
