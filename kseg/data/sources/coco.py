"""Data sets in COCO's JSON format: instance or semantic annotations -> label maps, for images in a folder.

A mistake that concerns the whole file raises KsegError when the data set is built. A mistake in one image or in its annotations
makes that sample bad: `load` raises BadSample, and kseg.data.check stops there or leaves the sample out.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import EXIF_STORED, read_image, read_orientation
from kseg.data.paths import check_link, fill_in, printable, slashes, unsafe
from kseg.data.reading import Reading
from kseg.data.registry import register_dataset
from kseg.data.search import find_image, find_json, find_same_name
from kseg.data.sources import coco_masks
from kseg.data.sources.coco_index import fits, group_annotations
from kseg.data.sources.coco_json import Entry, Id, assign_classes, index_by_id, read_coco
from kseg.utils.errors import KsegError

MAX_PIXELS = 2**28
"""Larger images are bad samples, by the size in the JSON: pycocotools computes with 32-bit integers."""
_LOOKED_AT = 50  # images, to see whether the folder is right
_EXIF_UNKNOWN = (
    "the EXIF orientation is not applied, because the file states the stored width and height, but the polygons fit both ways "
    "(--exif=apply turns the images)"
)
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
        exif: see kseg.data.image_io.read_image. "auto" follows the polygons where they fit one frame of a turned image only.
        on_bad_annotation: "skip" leaves out annotations, or parts of them, that cover nothing; "error" makes their image bad.
        follow_links: reads links that lead out of data_dir, too.
        max_pixels: see kseg.data.image_io.read_image.

    Attributes:
        class_names: name of each class, all distinct: categories that share a name get their id behind it, "facade [3]".
        ignore_index: 255.
        labelled: False if the file has no annotations at all; the label maps are then empty.
        image_ids, category_ids: the file's id of each image, and of each class; None for the background.
        warnings: lines to show the user.
        reading: what was decided, a kseg.data.reading.Reading.
        left_out: a line for each annotation, or part of one, that was left out.

    Raises:
        KsegError: if the folder or file is missing, if the file as a whole is malformed, or if none of its images is there.
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
        exif: str = "auto",
        on_bad_annotation: str = "skip",
        follow_links: bool = False,
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self._fill = 0 if background else IGNORE_INDEX
        annotations = annotations or ("annotations.json" if split is None else "annotations/{split}.json")
        images = images or ("images" if split is None else "images/{split}")
        self._shown_file = fill_in(annotations, split, "annotations")
        self._shown_images = fill_in(images, split, "images")
        file = _find_file(data_dir, self._shown_file, self._shown_images, annotations, split)
        self._root = root = Path(data_dir).expanduser()
        self._images = root / self._shown_images
        self._folders = (root.resolve(), self._images.resolve())
        self._max_pixels, self._exif, self._follow = max_pixels, exif, follow_links
        self._notes: dict[int, list[str]] = {}

        content, self._digest = read_coco(file, self._shown_file)
        categories, _ = index_by_id(content["categories"], "category", self._shown_file, {"name": str})
        self.class_names, self._values = assign_classes(categories, background, ignore_categories, self._shown_file)
        ids = {value: id_ for id_, value in self._values.items()}
        self.category_ids = tuple(ids.get(value) for value in range(len(self.class_names)))
        self.labelled = bool(content["annotations"])
        entries, repeated = index_by_id(
            content["images"], "image", self._shown_file, {"file_name": str, "height": int, "width": int}
        )
        if not entries:
            raise KsegError(f"{self._shown_file}: lists no images; choose another split or file.")
        self.image_ids = tuple(entries)
        self._names = [self._file_name(entry["file_name"]) for entry in entries.values()]
        sizes = [(entry["height"], entry["width"]) for entry in entries.values()]
        bad = self._bad_images(entries)
        self._check_images(bad, split)
        if exif != "auto":
            sizes = [size if index in bad else self._frame(index, size) for index, size in enumerate(sizes)]
        found = group_annotations(
            content["annotations"],
            self.image_ids,
            sizes,
            self._values,
            self._shown_file,
            bad=bad,
            image_name=self._shown_image,
            other_frame=lambda index: exif == "auto" and self._is_turned(index, sizes[index]),
            strict=on_bad_annotation == "error",
        )
        self._annotations, self._bad, self._sizes = found.by_image, found.bad, found.sizes
        self.left_out = tuple(found.details)
        self.warnings = tuple(found.warnings)
        if repeated:
            self.warnings += (f"{self._shown_file}: {repeated} images are listed twice, and read once.",)
        self.reading = self._reading(categories, background)

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
        size, notes = self._sizes[index], list[str]()
        image = read_image(
            path, shown, size, stated_in=self._shown_file, max_pixels=self._max_pixels, exif=self._exif, notes=notes
        )
        if EXIF_STORED in notes:
            notes.remove(EXIF_STORED)
            if self._fits_both_ways(index):
                notes.append(_EXIF_UNKNOWN)
        if notes:
            self._notes[index] = notes
        return image

    def notes(self, index: int) -> list[str]:
        """What the user should know of a sample that was loaded."""
        return self._notes.get(index, [])

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
        values = sorted(self._values.items(), key=lambda item: (isinstance(item[0], str), item))
        return f"{self._digest}-{self._fill}-{values}-v{LABEL_VERSION}"

    def overlap(self, index: int) -> int:
        """Counts the pixels that more than one annotation covers. Raises BadSample if an annotation cannot be used."""
        height, width = self._sizes[index]
        covered = np.zeros((height, width), np.int32)
        for runs in self._masks(index)[0]:
            covered += coco_masks.to_mask(runs, height, width)
        return int((covered > 1).sum())

    def elsewhere(self, index: int) -> str | None:
        """Looks below data_dir for a file of the image's name, and returns its path there, or None."""
        return find_same_name(self._root, self._names[index])

    def _path(self, index: int) -> tuple[Path, str]:
        """(the image's file, its name in messages). Raises BadSample if the file must not be read."""
        if index in self._bad:
            raise BadSample(self._bad[index])
        path, shown = self._images / self._names[index], self._shown_image(index)
        if not self._follow:
            check_link(path, self._folders, shown)
        return path, shown

    def _masks(self, index: int) -> tuple[list[np.ndarray], list[int]]:
        """(run lengths, label value) of each annotation."""
        masks, values = [], []
        for annotation, value, segmentation in self._annotations[index]:
            try:
                masks.append(coco_masks.to_runs(segmentation, *self._sizes[index]))
            except coco_masks.BadMask as error:
                raise BadSample(
                    f"{self._shown_file}: annotation {annotation} (image {self._shown_image(index)}): {error}."
                ) from None
            values.append(value)
        return masks, values

    def _file_name(self, name: str) -> str:
        """Returns a file name of Windows with the slashes of other systems, unless there is a file of just this name."""
        if "\\" not in name or "\0" in name:
            return name
        try:
            return name if (self._images / name).is_file() else slashes(name)
        except (OSError, UnicodeError):
            return slashes(name)

    def _bad_images(self, entries: dict[Id, Entry]) -> dict[int, str]:
        """Returns why an image cannot be used, by index, for names and sizes that cannot be right."""
        bad: dict[int, str] = {}
        for index, (id_, entry) in enumerate(entries.items()):
            if reason := unsafe(self._names[index]):
                name = printable(entry["file_name"])
                bad[index] = f"{self._shown_file}: image {printable(str(id_))} has the file_name {name}, which {reason}."
            elif min(entry["height"], entry["width"]) < 1 or entry["width"] * entry["height"] > MAX_PIXELS:
                size = f"{entry['width']}x{entry['height']}"
                bad[index] = f"{self._shown_file}: image {printable(str(id_))} has the size {size}, which no image can have."
        return bad

    def _check_images(self, bad: dict[int, str], split: str | None) -> None:
        """Raises KsegError if none of the images is there, judging by some of them, with the flag that finds them."""
        usable = [name for index, name in enumerate(self._names) if index not in bad]
        for name in usable[:: max(1, len(usable) // _LOOKED_AT)]:
            if os.path.lexists(self._images / name):
                return
        if usable:
            raise KsegError(
                f"{self._shown_file}: none of its {len(self._names)} images is in {printable(self._shown_images)}; "
                f"{find_image(self._root, usable[0], split)}."
            )

    def _orientation(self, index: int) -> tuple[tuple[int, int], int] | None:
        """The stored (height, width) of an image and its EXIF orientation, from its header; None if it cannot be read."""
        path = self._images / self._names[index]
        try:
            return read_orientation(path, self._shown_image(index), self._max_pixels)
        except BadSample:
            return None

    def _is_turned(self, index: int, stated: tuple[int, int]) -> bool:
        """Returns True if the image, one way or the other, has the stated width and height exchanged."""
        stored, orientation = self._orientation(index) or (stated, 1)
        return stored == stated[::-1] or (stored == stated and orientation >= 5)

    def _frame(self, index: int, stated: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that --exif=apply or ignore gives an image; the stated one unless the image is turned."""
        stored, orientation = self._orientation(index) or (stated, 1)
        if orientation < 5 or stated not in (stored, stored[::-1]):
            return stated
        return stored if self._exif == "ignore" else stored[::-1]

    def _fits_both_ways(self, index: int) -> bool:
        """Returns True if an image's annotations lie within it both as stored and turned."""
        height, width = self._sizes[index]
        segmentations = [segmentation for _, _, segmentation in self._annotations[index]]
        return bool(segmentations) and all(isinstance(s, tuple) and fits(s, width, height) for s in segmentations)

    def _reading(self, categories: dict[Id, Entry], background: bool) -> Reading:
        names = (*self.class_names, *[""] * (256 - len(self.class_names)))
        meanings = [
            (f"{id_} {categories[id_]['name']}", "ignored" if value == IGNORE_INDEX else names[value])
            for id_, value in self._values.items()
        ]
        meanings = sorted(meanings, key=lambda pair: pair[1] == "ignored")
        rest = ("pixels without annotation", "background" if background else "ignored")
        return Reading(f"coco: {self._shown_file}, images in {self._shown_images}", (rest, *meanings), self.warnings)

    def _shown_image(self, index: int) -> str:
        return printable(os.path.normpath(f"{self._shown_images}/{self._names[index]}"))


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
        exif=config.exif,
        on_bad_annotation=config.on_bad_annotation,
        follow_links=config.follow_links,
        max_pixels=config.max_pixels,
    )


def _find_file(data_dir: str | os.PathLike[str] | None, shown: str, images: str, pattern: str, split: str | None) -> Path:
    """Returns the annotation file. If it is missing, raises KsegError with the splits that exist, or the flag that finds it."""
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
    if found and not any(split in name for name in found if split):
        raise KsegError(f"data_dir {data_dir} has no file {shown}; choose another split: {', '.join(map(printable, found))}.")
    raise KsegError(f"data_dir {data_dir} has no file {shown}, nor any other that fits {pattern}; {find_json(root, split)}.")
