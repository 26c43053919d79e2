"""Data sets of image files and label images side by side: `images/{split}` and `labels/{split}`, VOC, Cityscapes."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kseg.config import DataConfig
from kseg.data.dataset import IGNORE_INDEX, BadSample, Sample
from kseg.data.image_io import EXIF_STORED, IMAGE_SUFFIXES, read_image, read_size
from kseg.data.label_images import read_label, stored_values
from kseg.data.label_map import LabelMap
from kseg.data.label_map_file import as_label_map
from kseg.data.paths import check_link, fill_in, printable, slashes, unsafe
from kseg.data.reading import Reading
from kseg.data.registry import register_dataset
from kseg.data.search import find_folder, find_label_file
from kseg.utils.errors import KsegError

_LABEL_SUFFIXES = (".bmp", ".gif", ".png", ".ppm", ".pgm", ".tif", ".tiff")
_LOSSY_SUFFIXES = (".jpeg", ".jpg", ".jp2", ".webp")


class FolderDataset:
    """One split of a data set of image files and label images, as a kseg.data.dataset.Dataset.

    An image and a label image belong together if their keys are equal. The key is the path below the pattern's folder without
    suffix, or, where the pattern has a `*`, the part that the `*` stands for, across subfolders. The label image's key may also
    have the image's suffix, as in a.jpg and a.jpg.png.

    Args:
        data_dir: the folder that the patterns start from.
        split: replaces `{split}` in the patterns; None for patterns without it.
        images, labels: patterns of the files; by default `images/{split}` and `labels/{split}`, without a split `images` and
            `labels`.
        split_list: pattern of a text file of keys, one a line; None takes every image.
        class_names: names of the label values 0, 1, ....
        label_map: instead, the class of each value or colour: a dict such as {1: "car"} or {"car": [0, 0, 142]}, or a file, see
            kseg.data.label_map_file.
        label_threshold: see kseg.data.label_images.read_label.
        ignore_categories: names of classes whose pixels are ignored.
        exif: see kseg.data.image_io.read_image.
        follow_links: reads links that lead out of data_dir, too.
        max_pixels: see kseg.data.image_io.read_image.

    Attributes:
        warnings: lines to show the user.
        reading: what was decided, a kseg.data.reading.Reading.

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
        exif: str = "auto",
        follow_links: bool = False,
        max_pixels: int | None = None,
    ):
        self.ignore_index = IGNORE_INDEX
        self.label_map = as_label_map(label_map, class_names).ignoring(ignore_categories)
        self.class_names = self.label_map.class_names
        self._max_pixels, self._threshold, self._exif, self._follow = max_pixels, label_threshold, exif, follow_links
        self._notes: dict[int, list[str]] = {}
        label_suffixes: tuple[str, ...] = _LABEL_SUFFIXES
        if label_threshold is not None:
            self.label_map.binary()  # raises unless there are two classes
            label_suffixes += _LOSSY_SUFFIXES
        images, labels = (
            fill_in(pattern or (name if split is None else f"{name}/{{split}}"), split, name)
            for pattern, name in ((images, "images"), (labels, "labels"))
        )
        self._root = Path(data_dir).expanduser()
        if not self._root.is_dir():
            raise KsegError(f"data_dir {data_dir} is not a folder; pass --data_dir=DIR, the folder that holds the data set.")
        found = _find(self._root, images, IMAGE_SUFFIXES, "images", split, follow_links)
        label_files = _find(self._root, labels, label_suffixes, "labels", split, follow_links)
        keys: Iterable[str] = sorted(found.files)
        listed = ""
        if split_list is not None:
            listed = fill_in(split_list, split, "split_list")
            keys = _read_list(self._root, listed, found.files)
            if not any(key in found.files for key in keys):
                first = printable(next(iter(keys)))
                raise KsegError(f"{listed}: lists no image of --images={images} (first name: {first}). Check both.")
        pairs = {key: (path, _label_of(key, path, label_files.files)) for key, path in found.files.items()}
        self._files = [(*pairs.get(key, ("", "")), key) for key in keys]
        if not any(label for _, label, _ in self._files):
            raise KsegError(
                f"no label image fits any of {len(self._files)} images (first: {self._files[0][2]}); check --images and --labels."
            )
        unused = len(set(label_files.files.values()) - {label for _, label in pairs.values()})
        left_out = [f"{unused} label images of --labels={labels} have no image and are left out."] if unused else []
        left_out += [*found.left_out("images", images), *label_files.left_out("labels", labels)]
        self.warnings = tuple(left_out)
        where = f"images {images}, labels {labels}" + (f", listed in {listed}" if listed else "")
        threshold = "" if label_threshold is None else f", threshold {label_threshold:g}"
        source = f"folder: {where}, classes by {self.label_map.shown}{threshold}"
        self.reading = Reading(source, tuple(self.label_map.meanings()), self.warnings)

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
        notes: list[str] = []
        image = read_image(path, shown, size, stated_in=shown_label, max_pixels=self._max_pixels, exif=self._exif, notes=notes)
        if notes := [note for note in notes if note != EXIF_STORED]:  # the label image's size shows that this is right
            self._notes[index] = notes
        return image

    def load_label(self, index: int) -> np.ndarray:
        """Reads the label map, uint8 [H, W]."""
        path, shown = self._label_path(index)
        return read_label(path, shown, self.label_map, threshold=self._threshold, max_pixels=self._max_pixels)

    def label_values(self, index: int) -> np.ndarray:
        """The different values of the label image, before the label map."""
        return stored_values(*self._label_path(index), self._max_pixels)

    def notes(self, index: int) -> list[str]:
        """What the user should know of a sample that was loaded."""
        return self._notes.get(index, [])

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
        if not self._follow:
            check_link(self._root / file, [self._root.resolve()], printable(file))
        return self._root / file, printable(file)


@register_dataset("folder")
def open_folder(config: DataConfig, split: str) -> FolderDataset:
    """Opens a data set of image files and label images."""
    assert config.data_dir is not None  # DataConfig requires it
    if config.label_map is None:
        root = Path(config.data_dir).expanduser()
        found = find_label_file(root) if root.is_dir() else None
        hint = f"; {root / found} may be it" if found else ""
        raise KsegError(f"--dataset=folder needs --label_map=FILE, which names the class of each label value or colour{hint}")
    return FolderDataset(
        config.data_dir,
        split,
        images=config.images,
        labels=config.labels,
        split_list=config.split_list,
        label_map=config.label_map,
        label_threshold=config.label_threshold,
        ignore_categories=config.ignore_categories,
        exif=config.exif,
        follow_links=config.follow_links,
        max_pixels=config.max_pixels,
    )


@dataclass
class _Found:
    """Files that fit a pattern. files: {key: path below data_dir}. others: number by suffix. linked: folders not searched."""

    files: dict[str, str] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)

    def left_out(self, flag: str, pattern: str) -> list[str]:
        """Returns a line about linked folders that were not searched."""
        if not self.linked:
            return []
        number = "1 linked folder" if len(self.linked) == 1 else f"{len(self.linked)} linked folders"
        return [f"{number} of --{flag}={pattern} (first: {self.linked[0]}) not searched; --follow_links searches them."]


def _find(root: Path, pattern: str, suffixes: tuple[str, ...], flag: str, split: str | None, follow_links: bool) -> _Found:
    """Returns the files that fit a pattern. Raises KsegError if there are none."""
    if reason := unsafe(pattern):
        raise KsegError(f"--{flag}={pattern}: {reason}; give a path below data_dir.")
    if pattern.count("*") > 1:
        raise KsegError(f"--{flag}={pattern}: has more than one *; keep the one that tells the samples apart.")
    before, star, after = pattern.partition("*")
    folder = (before.rpartition("/")[0] if star else pattern).rstrip("/") or "."
    start = before[len(folder) + 1 :] if star and folder != "." else before if star else ""
    if not (root / folder).is_dir():
        raise KsegError(f"--{flag}={pattern}: data_dir has no folder {folder}; {find_folder(root, flag, split)}.")
    fits = re.compile(re.escape(start) + "(.*)" + re.escape(after), re.S)
    result, seen = _Found(), set()
    for parent, folders, files in os.walk(root / folder, followlinks=follow_links):
        folders.sort()
        if follow_links:
            if (real := os.path.realpath(parent)) in seen:  # a link to a folder around it
                folders.clear()
                continue
            seen.add(real)
        else:
            linked = [name for name in folders if Path(parent, name).is_symlink()]
            result.linked += [Path(parent, name).relative_to(root).as_posix() for name in linked]
        for name in files:
            path = Path(parent, name)
            inner = path.relative_to(root / folder).as_posix()
            if star:
                match = fits.fullmatch(inner)
                key = match[1] if match else ""
            else:
                key = inner[: -len(path.suffix)] if path.suffix.lower() in suffixes and not name.startswith(".") else ""
            if not key:
                result.others[path.suffix.lower()] = result.others.get(path.suffix.lower(), 0) + 1
                continue
            if key in result.files:
                raise KsegError(f"--{flag}={pattern}: {result.files[key]} and {name} have the same name; keep one of them.")
            result.files[key] = path.relative_to(root).as_posix()
    if not result.files:
        raise KsegError(f"--{flag}={pattern}: there are no such files in data_dir{_instead(result, flag)}.")
    return result


def _label_of(key: str, image: str, labels: Mapping[str, str]) -> str:
    """Returns the label image of an image, by its key or by the key with the image's suffix (a.jpg.png); "" if there is none."""
    return labels.get(key) or labels.get(key + Path(image).suffix, "")


def _instead(found: _Found, flag: str) -> str:
    """Returns what the folder holds instead of images, and what to do."""
    lossy = [suffix for suffix in _LOSSY_SUFFIXES if suffix in found.others]
    if flag == "labels" and lossy:
        return (
            f", only {found.others[lossy[0]]} {lossy[0]} files, whose compression changes label values; save label images as "
            "PNG, or read masks of two classes with --label_threshold=128"
        )
    if found.linked:
        return f", only linked folders (first: {found.linked[0]}); --follow_links searches them"
    if found.others:
        suffix = max(found.others, key=lambda suffix: found.others[suffix])
        return f", only {found.others[suffix]} {suffix or 'other'} files; check the pattern"
    return "; check the pattern"


def _read_list(root: Path, shown: str, images: Mapping[str, str]) -> dict[str, None]:
    """Returns the keys of a split list in order.

    A line is a key, a key and more words, as in VOC's lists, or the path of an image, as in CamVid's.
    """
    try:
        text = (root / shown).read_text(encoding="utf-8-sig")
    except OSError as error:
        there = sorted(path.stem for path in (root / shown).parent.glob("*.txt"))
        choose = f" Choose another split: {', '.join(map(printable, there[:9]))}." if there else ""
        raise KsegError(f"{shown}: the split list cannot be read ({error.strerror}). Check --split_list.{choose}") from None
    except UnicodeDecodeError:
        raise KsegError(f"{shown}: the split list is not a text file. Check --split_list.") from None
    keys = dict.fromkeys(_listed_key(slashes(line.strip()), images) for line in text.splitlines() if line.strip())
    if not keys:
        raise KsegError(f"{shown}: the split list is empty. Choose another split.")
    return keys


def _listed_key(line: str, images: Mapping[str, str]) -> str:
    """Returns the key that a line of a split list means; the first word if there is no such image."""
    word = line.split()[0]
    for text in (line, word, line.strip('"')):
        parts = text.split("/")
        for start in range(len(parts)):  # "/SegNet/CamVid/train/0001TP.png" for "0001TP"
            path = "/".join(parts[start:])
            stem = path[: -len(suffix)] if (suffix := Path(path).suffix).lower() in IMAGE_SUFFIXES else path
            for key in (path, stem):
                if key in images:
                    return key
    return word
