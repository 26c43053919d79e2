"""Pictures without labels, for prediction: image files wherever they lie, or arrays."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kseg.data.dataset import IGNORE_INDEX, Sample
from kseg.data.image_io import read_image, read_size
from kseg.data.sources.coco import printable
from kseg.data.sources.folder import IMAGE_SUFFIXES
from kseg.utils.errors import KsegError

ALIKE = 16
"""Pictures whose areas differ by less than this factor are predicted by one program (group_by_size)."""


@dataclass(frozen=True)
class ImageFile:
    """An image file, and its name: a relative path without "..", different from that of any other."""

    path: Path
    name: str


def find_images(inputs: Sequence[str]) -> list[ImageFile]:
    """Returns the files that --input names, in its order and sorted within, each once.

    inputs: files, whatever they are called; folders, of which all image files count, subfolders' too; patterns with *, ?, [] and
    ** for any folders. Hidden files count only where they are named. A file's name is its path below the folder, or below a
    pattern's first folders without wildcards; where two would be alike, all are paths below the folder common to all files.
    Raises KsegError for an input that names no image.
    """
    found: dict[str, ImageFile] = {}
    for given in inputs:
        try:
            for file in _files(given):
                found.setdefault(os.path.abspath(file.path), file)  # noqa: PTH100  (links stay as they are)
        except OSError as error:
            raise KsegError(f"--input={given}: cannot be read ({error.strerror})") from None
    if len({file.name for file in found.values()}) == len(found):
        return list(found.values())
    common = Path(os.path.commonpath([os.path.dirname(path) for path in found]))  # noqa: PTH120
    return [ImageFile(file.path, Path(path).relative_to(common).as_posix()) for path, file in found.items()]


def _files(given: str) -> Iterator[ImageFile]:
    if not given.strip():
        raise KsegError("--input: one of its paths is empty; name files, folders or patterns, separated by commas")
    path = Path(given).expanduser()
    if path.is_dir():
        files = sorted(_walk(path, given))
        if not files:
            raise KsegError(f"--input={given}: the folder has no images ({', '.join(IMAGE_SUFFIXES)})")
        yield from (ImageFile(file, file.relative_to(path).as_posix()) for file in files)
    elif path.exists() or not glob.has_magic(given):
        if not path.is_file():
            raise KsegError(f"--input={given}: {'is no file' if path.exists() else 'no such file or folder'}")
        yield ImageFile(path, path.name)
    else:
        plain = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:plain])
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path.glob lists hidden files)
        any_kind = given.endswith("*")  # such a pattern is about the place, not about the kind of file
        files = sorted(file for file in matches if file.is_file() and not (any_kind and not _is_image(file)))
        if not files:
            raise KsegError(f"--input={given}: no {'image' if any_kind else 'file'} fits this pattern")
        yield from (ImageFile(file, file.relative_to(root).as_posix()) for file in files)


def _walk(folder: Path, given: str) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise KsegError(f"--input={given}: {error.filename} cannot be read ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (file for file in (Path(parent, name) for name in names) if _is_image(file))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


class ImageFiles:
    """Image files as a kseg.data.dataset.Dataset whose label maps are ignored throughout.

    Images are turned as EXIF says, and so are their sizes. class_names: of whatever predicts them. max_pixels: see
    kseg.data.image_io.read_image.
    """

    labelled = False

    def __init__(self, files: Sequence[ImageFile], class_names: tuple[str, ...], max_pixels: int | None = None):
        self.class_names, self.ignore_index = class_names, IGNORE_INDEX
        self._files, self._max_pixels = list(files), max_pixels
        self._sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index].name

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), from the header unless it was read. Raises BadSample if it cannot be read."""
        if index not in self._sizes:
            path = self._files[index].path
            self._sizes[index] = read_size(path, printable(str(path)), self._max_pixels, oriented=True)
        return self._sizes[index]

    def load(self, index: int) -> Sample:
        """Reads picture `index`. Raises BadSample if it cannot be used."""
        path = self._files[index].path
        image = read_image(path, printable(str(path)), max_pixels=self._max_pixels)
        self._sizes[index] = image.shape[:2]
        return _unlabelled(image, self.name(index))


class ImageArrays:
    """Images in memory, uint8 [H, W, 3] each, as a Dataset whose label maps are ignored throughout."""

    labelled = False

    def __init__(self, images: Sequence[np.ndarray], class_names: tuple[str, ...]):
        self.class_names, self.ignore_index = class_names, IGNORE_INDEX
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"{index:06d}"

    def size(self, index: int) -> tuple[int, int]:
        height, width = self._images[index].shape[:2]
        return height, width

    def load(self, index: int) -> Sample:
        return _unlabelled(self._images[index], self.name(index))


def _unlabelled(image: np.ndarray, name: str) -> Sample:
    return Sample(image, np.full(image.shape[:2], IGNORE_INDEX, "uint8"), name)


def group_by_size(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Divides pictures of these (height, width) into groups, each to be predicted by one program for its largest sides.

    A program computes as much for a small picture as for the largest, and compiling one takes long: so one serves all pictures
    of more than 1/ALIKE of its area, and a folder of photos, upright ones among them, is one group. Returns indices, the
    largest picture's group first, in the pictures' order within.
    """
    groups: list[list[int]] = []
    areas: list[tuple[int, int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index][0] * sizes[index][1], index)):
        height, width = sizes[index]
        for place, area in enumerate(areas):
            larger = max(area[0], height), max(area[1], width)
            if larger[0] * larger[1] < ALIKE * height * width:  # and so less still for those before, which are larger
                groups[place].append(index)
                areas[place] = larger
                break
        else:
            groups.append([index])
            areas.append((height, width))
    return [sorted(group) for group in groups]
