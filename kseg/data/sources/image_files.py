"""Images without labels, for prediction: image files wherever they are."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kseg.data.dataset import IGNORE_INDEX, Sample
from kseg.data.image_io import IMAGE_SUFFIXES, read_image, read_size
from kseg.data.paths import printable
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ImageFile:
    """An image file, and its name: a relative path without "..", different from that of any other."""

    path: Path
    name: str


def find_images(inputs: Sequence[str], outputs: Sequence[Path] = ()) -> list[ImageFile]:
    """Returns the files that --input names, each once, in the order of the inputs and sorted within each.

    Args:
        inputs: files with any suffix; folders, searched for image files, subfolders too; patterns with *, ?, [] and ** (any
            folders). Hidden files count only where they are named.
        outputs: folders that are written to. Images that a search finds there are left out, and counted in a warning: they are
            results of an earlier call.

    Returns:
        Files named by their path below the folder, or below a pattern's first folders without wildcards. Where two names would
        be the same, all names are paths below the folder common to all files.

    Raises:
        KsegError: for an input that names no image.
    """
    found: dict[str, ImageFile] = {}
    results: set[str] = set()
    below = tuple(f"{os.path.abspath(folder)}{os.sep}" for folder in outputs)  # noqa: PTH100
    for given in inputs:
        try:
            for file in _files(given):
                path = os.path.abspath(file.path)  # noqa: PTH100  (links stay as they are)
                if path.startswith(below) and file.path != Path(given).expanduser():
                    results.add(path)
                else:
                    found.setdefault(path, file)
        except OSError as error:
            raise KsegError(f"--input={given}: cannot be read ({error.strerror}); check the path") from None
    results -= found.keys()
    if results:
        count, folders = len(results), " and ".join(map(str, outputs))
        if not found:
            raise KsegError(f"--input: all {count} images are below {folders}, where results go; name another --output")
        message = f"left out {count} images below {folders}, where results go; to predict them, name another --output"
        print(f"warning: {message}", file=sys.stderr, flush=True)
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
            raise KsegError(f"--input={given}: the folder has no images ({', '.join(IMAGE_SUFFIXES)}); name another")
        yield from (ImageFile(file, file.relative_to(path).as_posix()) for file in files)
    elif path.exists() or not glob.has_magic(given):
        if not path.is_file():
            raise KsegError(f"--input={given}: {'is not a file' if path.exists() else 'no such file or folder'}; check the path")
        yield ImageFile(path, path.name)
    else:
        plain = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:plain])
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path.glob lists hidden files)
        any_kind = given.endswith("*")  # such a pattern names a place, not a kind of file
        files = sorted(file for file in matches if file.is_file() and not (any_kind and not _is_image(file)))
        if not files:
            raise KsegError(f"--input={given}: no {'image' if any_kind else 'file'} fits this pattern; check it")
        yield from (ImageFile(file, file.relative_to(root).as_posix()) for file in files)


def _walk(folder: Path, given: str) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise KsegError(f"--input={given}: {error.filename} cannot be read ({error.strerror}); check its permissions")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (file for file in (Path(parent, name) for name in names) if _is_image(file))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


class ImageFiles:
    """Image files as a kseg.data.dataset.Dataset. All pixels of the label maps are ignored.

    Images, and their sizes, are rotated by their EXIF orientation, unless exif is "ignore". class_names: the model's. max_pixels:
    see kseg.data.image_io.read_image.
    """

    labelled = False

    def __init__(
        self, files: Sequence[ImageFile], class_names: tuple[str, ...], max_pixels: int | None = None, exif: str = "auto"
    ):
        self.class_names, self.ignore_index = class_names, IGNORE_INDEX
        self._files, self._max_pixels, self._exif = list(files), max_pixels, exif
        self._sizes: dict[int, tuple[int, int]] = {}
        self._notes: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files[index].name

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), from the header unless the image was read before. Raises BadSample."""
        if index not in self._sizes:
            path = self._files[index].path
            self._sizes[index] = read_size(path, printable(str(path)), self._max_pixels, oriented=self._exif != "ignore")
        return self._sizes[index]

    def load(self, index: int) -> Sample:
        """Reads image `index`. Raises BadSample if it cannot be used."""
        image = self.load_image(index)
        return Sample(image, np.full(image.shape[:2], IGNORE_INDEX, "uint8"), self.name(index))

    def load_image(self, index: int) -> np.ndarray:
        """Reads the image of sample `index`, uint8 [H, W, 3]. Raises BadSample."""
        path = self._files[index].path
        notes: list[str] = []
        image = read_image(path, printable(str(path)), max_pixels=self._max_pixels, exif=self._exif, notes=notes)
        self._sizes[index] = image.shape[:2]
        if notes:
            self._notes[index] = notes
        return image

    def notes(self, index: int) -> list[str]:
        """What the user should know of an image that was loaded."""
        return self._notes.get(index, [])
