"""Images and label images side by side: `images/{split}` and `labels/{split}`, VOC, Cityscapes."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import read_image, read_size, read_values
from kseg.data.label_map import LabelMap, read_label_map
from kseg.data.registry import register_dataset
from kseg.data.sources.coco import fill_in, printable, unsafe
from kseg.utils.errors import KsegError, suggest

IMAGE_SUFFIXES = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LABELS = (".bmp", ".gif", ".png", ".tif", ".tiff")


class FolderDataset:
    """One split of a data set of image files and label images, as a kseg.data.dataset.Dataset.

    An image and a label image belong together if their keys are equal: the path below the pattern's folder without suffix, or,
    where the pattern has a `*`, what the `*` stands for, across subfolders.

    Args:
        data_dir: the folder that the patterns start from.
        split: what replaces `{split}` in them.
        images, labels: patterns of the files.
        split_list: pattern of a text file of keys, one a line, or None for every image.
        label_map: what the values of the label images stand for.
        max_pixels: see kseg.data.image_io.read_image.

    Attributes:
        warnings: lines to show the user.

    Raises:
        KsegError: if a folder is missing or empty, or no label image belongs to any image.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        *,
        images: str,
        labels: str,
        split_list: str | None = None,
        label_map: LabelMap,
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self.class_names = label_map.class_names
        self._map, self._max_pixels = label_map, max_pixels
        self._root = Path(data_dir).expanduser()
        if not self._root.is_dir():
            raise KsegError(f"data_dir {data_dir} is no folder; pass --data_dir=DIR, the folder that holds the data set.")
        found = _find(self._root, fill_in(images, split, "images"), IMAGE_SUFFIXES, "images")
        maps = _find(self._root, fill_in(labels, split, "labels"), _LABELS, "labels")
        keys: Iterable[str] = sorted(found)
        if split_list is not None:
            listed = fill_in(split_list, split, "split_list")
            keys = _read_list(self._root, listed)
            if not any(key in found for key in keys):
                raise KsegError(f"{listed}: no image of --images={images} is in the list (first: {printable(next(iter(keys)))}).")
        self._files = [(found.get(key, ""), maps.get(key, ""), key) for key in keys]
        if not any(label for _, label, _ in self._files):
            raise KsegError(
                f"no label image fits any of {len(self._files)} images (first: {self._files[0][2]}); check --images and --labels."
            )
        left = len(set(maps) - set(found))
        self.warnings = (f"{left} label images of --labels={labels} have no image and are left out.",) if left else ()

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The image's path below data_dir."""
        image, _, key = self._files[index]
        return image or key

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the label image, from its header."""
        return read_size(*self._path(index, 1), self._max_pixels)

    def load(self, index: int) -> Sample:
        """Reads sample `index`. Raises BadSample, with a line that names the file, if it cannot be used."""
        index = range(len(self))[index]
        return Sample(self.load_image(index), self.load_label(index), self.name(index))

    def load_image(self, index: int) -> np.ndarray:
        """The image, uint8 [H, W, 3], turned as EXIF says unless the label image fits it unturned."""
        path, shown = self._path(index, 0)
        label, shown_label = self._path(index, 1)
        return read_image(
            path, shown, read_size(label, shown_label, self._max_pixels), stated_in=shown_label, max_pixels=self._max_pixels
        )

    def load_label(self, index: int) -> np.ndarray:
        """The label map, uint8 [H, W]."""
        path, shown = self._path(index, 1)
        return self._map(read_values(path, shown, self._max_pixels), shown)

    def image_bytes(self, index: int) -> bytes:
        """The image file's content."""
        return self._path(index, 0)[0].read_bytes()

    def _path(self, index: int, part: int) -> tuple[Path, str]:
        image, label, key = self._files[index]
        file = (image, label)[part]
        if not file:
            raise BadSample(f"{printable(image or key)}: there is no {'label image' if image else 'image'} of this name.")
        path = self._root / file
        try:
            inside = path.resolve().is_relative_to(self._root.resolve())
        except (OSError, RuntimeError):
            raise BadSample(f"{printable(file)}: is a link that leads nowhere.") from None
        if not inside:
            raise BadSample(f"{printable(file)}: is a link that leaves the data set's folder.")
        return path, printable(file)


def _find(root: Path, pattern: str, suffixes: tuple[str, ...], flag: str) -> dict[str, str]:
    """Files by key, paths below root."""
    if reason := unsafe(pattern):
        raise KsegError(f"--{flag}={pattern}: {reason}; it starts from data_dir.")
    if pattern.count("*") > 1:
        raise KsegError(f"--{flag}={pattern}: has more than one *; keep the one that tells the samples apart.")
    before, star, after = pattern.partition("*")
    folder = (before.rpartition("/")[0] if star else pattern).rstrip("/") or "."
    start = before[len(folder) + 1 :] if star and folder != "." else before if star else ""
    if not (root / folder).is_dir():
        there = [path.name for path in (root / folder).parent.iterdir()] if (root / folder).parent.is_dir() else []
        raise KsegError(
            f"--{flag}={pattern}: data_dir has no folder {folder}{suggest(Path(folder).name, there) if there else '.'}"
        )
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
    """The keys that a split list names: the first word of each line, as VOC's lists have it."""
    try:
        text = (root / shown).read_text(encoding="utf-8")
    except OSError as error:
        raise KsegError(f"{shown}: the split list cannot be read ({error.strerror}). Check --split_list.") from None
    except UnicodeDecodeError:
        raise KsegError(f"{shown}: the split list is not a text. Check --split_list.") from None
    keys = dict.fromkeys(line.split()[0] for line in text.splitlines() if line.strip())
    if not keys:
        raise KsegError(f"{shown}: the split list is empty. Choose another split.")
    return keys


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
        label_map=read_label_map(config.label_map),
        max_pixels=config.max_pixels,
    )
