"""Data sets of image files and label images side by side: `images/{split}` and `labels/{split}`, VOC, Cityscapes."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import IMAGE_SUFFIXES, read_image, read_size
from kseg.data.label_images import read_label, stored_values
from kseg.data.label_map import LabelMap
from kseg.data.label_map_file import as_label_map
from kseg.data.paths import check_link, fill_in, printable, unsafe
from kseg.data.registry import register_dataset
from kseg.utils.errors import KsegError, suggest

_LABEL_SUFFIXES = (".bmp", ".gif", ".png", ".tif", ".tiff")


class FolderDataset:
    """One split of a data set of image files and label images, as a kseg.data.dataset.Dataset.

    An image and a label image belong together if their keys are equal. The key is the path below the pattern's folder without
    suffix, or, where the pattern has a `*`, the part that the `*` stands for, across subfolders.

    Args:
        data_dir: the folder that the patterns start from.
        split: replaces `{split}` in the patterns; None for patterns without it.
        images, labels: patterns of the files; by default `images/{split}` and `labels/{split}`, without a split `images` and
            `labels`.
        split_list: pattern of a text file of keys, one a line; None takes every image.
        class_names: names of the label values 0, 1, ....
        label_map: instead, the class of each value: {value: name or "ignore"}, or a file, see kseg.data.label_map.
        label_threshold: see kseg.data.label_images.read_label.
        ignore_categories: names of classes whose pixels are ignored.
        max_pixels: see kseg.data.image_io.read_image.

    Attributes:
        warnings: lines to show the user.

    Raises:
        KsegError: if a folder is missing or empty, or no label image belongs to any image.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str | None = None,
        *,
        class_names: Sequence[str] | None = None,
        label_map: LabelMap | str | os.PathLike[str] | Mapping[int, str] | None = None,
        images: str | None = None,
        labels: str | None = None,
        split_list: str | None = None,
        label_threshold: float | None = None,
        ignore_categories: Sequence[str] = (),
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self.label_map = as_label_map(label_map, class_names).ignoring(ignore_categories)
        self._max_pixels, self._threshold = max_pixels, label_threshold
        if label_threshold is not None:
            self.label_map.binary()  # raises unless there are two classes
        self.class_names = self.label_map.class_names
        images, labels = (
            pattern or (name if split is None else f"{name}/{{split}}")
            for pattern, name in ((images, "images"), (labels, "labels"))
        )
        self._root = Path(data_dir).expanduser()
        if not self._root.is_dir():
            raise KsegError(f"data_dir {data_dir} is not a folder; pass --data_dir=DIR, the folder that holds the data set.")
        found = _find(self._root, fill_in(images, split, "images"), IMAGE_SUFFIXES, "images")
        label_files = _find(self._root, fill_in(labels, split, "labels"), _LABEL_SUFFIXES, "labels")
        keys: Iterable[str] = sorted(found)
        if split_list is not None:
            listed = fill_in(split_list, split, "split_list")
            keys = _read_list(self._root, listed)
            if not any(key in found for key in keys):
                first = printable(next(iter(keys)))
                raise KsegError(f"{listed}: lists no image of --images={images} (first name: {first}). Check both.")
        self._files = [(found.get(key, ""), label_files.get(key, ""), key) for key in keys]
        if not any(label for _, label, _ in self._files):
            raise KsegError(
                f"no label image fits any of {len(self._files)} images (first: {self._files[0][2]}); check --images and --labels."
            )
        unused = len(set(label_files) - set(found))
        self.warnings = (f"{unused} label images of --labels={labels} have no image and are left out.",) if unused else ()

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The image's path below data_dir."""
        image, _, key = self._files[index]
        return image or key

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the label image, from its header."""
        return read_size(*self._label_path(index), self._max_pixels)

    def load(self, index: int) -> Sample:
        """Reads sample `index`. Raises BadSample, with a line that names the file, if it cannot be used."""
        index = range(len(self))[index]  # raises IndexError beyond the end; a negative index counts from it
        return Sample(self.load_image(index), self.load_label(index), self.name(index))

    def load_image(self, index: int) -> np.ndarray:
        """Reads the image, uint8 [H, W, 3], rotated by its EXIF orientation unless only the stored image fits the label image."""
        path, shown = self._image_path(index)
        label, shown_label = self._label_path(index)
        size = read_size(label, shown_label, self._max_pixels)
        return read_image(path, shown, size, stated_in=shown_label, max_pixels=self._max_pixels)

    def load_label(self, index: int) -> np.ndarray:
        """Reads the label map, uint8 [H, W]."""
        path, shown = self._label_path(index)
        return read_label(path, shown, self.label_map, threshold=self._threshold, max_pixels=self._max_pixels)

    def label_values(self, index: int) -> np.ndarray:
        """The different values of the label image, before the label map."""
        return stored_values(*self._label_path(index), self._max_pixels)

    def image_bytes(self, index: int) -> bytes:
        """The image file's content."""
        return self._image_path(index)[0].read_bytes()

    def _image_path(self, index: int) -> tuple[Path, str]:
        image, _, key = self._files[index]
        if not image:
            raise BadSample(f"{printable(key)}: there is no image of this name.")
        return self._check(image)

    def _label_path(self, index: int) -> tuple[Path, str]:
        image, label, key = self._files[index]
        if not label:
            raise BadSample(f"{printable(image or key)}: there is no {'label image' if image else 'image'} of this name.")
        return self._check(label)

    def _check(self, file: str) -> tuple[Path, str]:
        """(path, its name in messages)."""
        check_link(self._root / file, [self._root.resolve()], printable(file))
        return self._root / file, printable(file)


@register_dataset("folder")
def open_folder(config: DataConfig, split: str) -> FolderDataset:
    """Opens a data set of image files and label images."""
    assert config.data_dir is not None  # DataConfig requires it
    if config.label_map is None:
        raise KsegError("--dataset=folder needs --label_map=FILE, which names the class of each label value")
    return FolderDataset(
        config.data_dir,
        split,
        images=config.images,
        labels=config.labels,
        split_list=config.split_list,
        label_map=config.label_map,
        label_threshold=config.label_threshold,
        ignore_categories=config.ignore_categories,
        max_pixels=config.max_pixels,
    )


def _find(root: Path, pattern: str, suffixes: tuple[str, ...], flag: str) -> dict[str, str]:
    """Returns the files that fit a pattern, {key: path below root}. Raises KsegError if there are none."""
    if reason := unsafe(pattern):
        raise KsegError(f"--{flag}={pattern}: {reason}; give a path below data_dir.")
    if pattern.count("*") > 1:
        raise KsegError(f"--{flag}={pattern}: has more than one *; keep the one that tells the samples apart.")
    before, star, after = pattern.partition("*")
    folder = (before.rpartition("/")[0] if star else pattern).rstrip("/") or "."
    start = before[len(folder) + 1 :] if star and folder != "." else before if star else ""
    if not (root / folder).is_dir():
        there = [path.name for path in (root / folder).parent.iterdir()] if (root / folder).parent.is_dir() else []
        hint = suggest(Path(folder).name, there) if there else f"; check --{flag}."
        raise KsegError(f"--{flag}={pattern}: data_dir has no folder {folder}{hint}")
    fits = re.compile(re.escape(start) + "(.*)" + re.escape(after), re.S)
    result: dict[str, str] = {}
    for parent, folders, files in os.walk(root / folder):
        folders.sort()
        for name in files:
            path = Path(parent, name)
            inner = path.relative_to(root / folder).as_posix()
            if star:
                match = fits.fullmatch(inner)
                key = match[1] if match else ""
            else:
                key = inner[: -len(path.suffix)] if path.suffix.lower() in suffixes and not name.startswith(".") else ""
            if not key:
                continue
            if key in result:
                raise KsegError(f"--{flag}={pattern}: {result[key]} and {name} have the same name; keep one of them.")
            result[key] = path.relative_to(root).as_posix()
    if not result:
        raise KsegError(f"--{flag}={pattern}: there are no such files in data_dir; check the pattern.")
    return result


def _read_list(root: Path, shown: str) -> dict[str, None]:
    """Returns the keys of a split list in order: the first word of each line, as in VOC's lists."""
    try:
        text = (root / shown).read_text(encoding="utf-8")
    except OSError as error:
        raise KsegError(f"{shown}: the split list cannot be read ({error.strerror}). Check --split_list.") from None
    except UnicodeDecodeError:
        raise KsegError(f"{shown}: the split list is not a text file. Check --split_list.") from None
    keys = dict.fromkeys(line.split()[0] for line in text.splitlines() if line.strip())
    if not keys:
        raise KsegError(f"{shown}: the split list is empty. Choose another split.")
    return keys
