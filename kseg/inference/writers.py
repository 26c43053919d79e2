"""The files that predictions are written to, picture by picture: label images, overlays, probabilities, CSV, COCO."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import PredictConfig
from kseg.data.dataset import BadSample, Dataset
from kseg.data.palette import IGNORED, overlay, palette
from kseg.inference.predictor import Prediction
from kseg.inference.submission import submission_file
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path, write_text

FOLDERS = {"labels_dir": ".png", "overlays_dir": ".jpg", "probabilities_dir": ".npz"}
"""Flags of outputs that are a file a picture, and its suffix."""
FILES = ("submission", "results", "overlay_video")
"""Flags of outputs that are one file."""


def outputs(config: PredictConfig) -> list[str]:
    """Returns the folders and files that the flags name."""
    return [getattr(config, flag) for flag in (*FILES, *FOLDERS) if getattr(config, flag)]


def check_outputs(config: PredictConfig) -> None:
    """Raises KsegError, before anything is predicted, for outputs that cannot be written."""
    for flag in (*FILES, *FOLDERS):
        if not (given := getattr(config, flag)):
            continue
        if flag in FILES and Path(given).is_dir():
            raise KsegError(f"--{flag}={given}: is a folder; name a file")
        try:
            (Path(given) if flag in FOLDERS else Path(given).parent).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KsegError(f"--{flag}={given}: cannot be written ({error.strerror})") from None


def picture_files(names: Sequence[str]) -> list[Path]:
    """Where each image's outputs go, without suffix: folders are kept, suffixes only where two names differ in nothing else."""
    stems = [Path(name).with_suffix("") for name in names]
    count = Counter(stems)
    paths = [stem if count[stem] == 1 else Path(name) for name, stem in zip(names, stems, strict=True)]
    if len(set(paths)) < len(paths):  # a.jpg, a.png and a.png.gif
        paths = [Path(name) for name in names]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise KsegError(f"image {str(path)!r}: its name leaves the folder of the outputs; rename the file")
    return paths


def check_inputs_stay(config: PredictConfig, names: Sequence[str], inputs: Sequence[Path]) -> None:
    """Raises KsegError if an output, of pictures of these names, would be written over an input."""
    own = {path.resolve() for path in inputs}
    written = [(flag, Path(getattr(config, flag))) for flag in FILES if getattr(config, flag)]
    for flag, suffix in FOLDERS.items():
        if folder := getattr(config, flag):
            written += [(flag, Path(folder, f"{path}{suffix}")) for path in picture_files(names)]
    for flag, path in written:
        if path.resolve() in own:
            raise KsegError(f"--{flag}={getattr(config, flag)}: would write over the input {path}; name another place")


def write_skipped(config: PredictConfig, lines: Sequence[str]) -> None:
    """Writes skipped.txt into the first folder of outputs, or beside the first file, FILE.skipped.txt; without lines, removes
    that of an earlier time.
    """
    folders = [getattr(config, flag) for flag in FOLDERS if getattr(config, flag)]
    path = Path(folders[0], "skipped.txt") if folders else Path(f"{outputs(config)[0]}.skipped.txt")
    if lines:
        write_text(path, "".join(line + "\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


class PredictionFiles:
    """Writes what the flags name, picture by picture, of a data set. A context manager: the files that hold all pictures appear
    at its end, if it ends well. Its methods raise OSError.
    """

    def __init__(self, config: PredictConfig, dataset: Dataset):
        self._config, self._dataset = config, dataset
        self._names = [dataset.name(index) for index in range(len(dataset))]
        self._paths = picture_files(self._names)
        self._image_ids, self._category_ids = coco_ids(dataset)
        self._stack = contextlib.ExitStack()
        self._submit: Callable[[str, np.ndarray], None] | None = None
        self._add_result: Callable[[dict[str, Any]], None] | None = None

    def __enter__(self) -> "PredictionFiles":
        with self._stack:
            if self._config.submission:
                temporary = self._stack.enter_context(atomic_path(Path(self._config.submission)))
                self._submit = self._stack.enter_context(submission_file(temporary))
            if self._config.results:
                temporary = self._stack.enter_context(atomic_path(Path(self._config.results)))
                self._add_result = self._stack.enter_context(_json_list(temporary))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, index: int, found: Prediction) -> None:
        """Writes picture `index`. Raises KsegError if it can no longer be read."""
        try:
            image = self._dataset.load(index).image if self._config.overlays_dir else None
        except BadSample as error:
            raise KsegError(f"{error} It was in order when the run started.") from error
        write_picture(self._config, self._paths[index], found, image)
        if self._submit:
            self._submit(self._names[index], found.prediction)
        if self._add_result:
            for result in coco_results(found, self._category_ids):
                self._add_result({"image_id": self._image_ids[index], "file_name": self._names[index], **result})


def write_picture(config: PredictConfig, path: Path, found: Prediction, image: np.ndarray | None) -> None:
    """Writes those of a picture's own files that the flags name.

    path: what is below their folders, without suffix. image: uint8 [H, W, 3], for overlays.
    """
    if config.labels_dir:
        write_label(Path(config.labels_dir, f"{path}.png"), found.prediction)
    if config.overlays_dir and image is not None:
        write_overlay(Path(config.overlays_dir, f"{path}.jpg"), image, found.prediction)
    if config.probabilities_dir and found.probabilities is not None:
        with atomic_path(Path(config.probabilities_dir, f"{path}.npz")) as temporary:
            np.savez_compressed(temporary, probabilities=found.probabilities)


def write_label(path: Path, prediction: np.ndarray) -> None:
    """Writes class ids [H, W] as a palette PNG."""
    from PIL import Image

    picture = Image.fromarray(prediction.astype("uint8"), "L")
    picture.putpalette([*palette(255).ravel().tolist(), *IGNORED])
    with atomic_path(path) as temporary:
        picture.save(temporary, optimize=True)


def write_overlay(path: Path, image: np.ndarray, prediction: np.ndarray) -> None:
    """Writes an image with the classes' colours over it as JPEG."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(overlay(image, prediction)).save(temporary, quality=90)


def coco_results(found: Prediction, category_ids: Sequence[int | None]) -> Iterator[dict[str, Any]]:
    """Yields an entry of COCO's results format, without its image, for each class that a picture has; None leaves a class out.

    The segmentation is all pixels of the class, compressed RLE; the score is their mean probability.
    """
    from pycocotools import mask

    assert found.confidence is not None
    for value in np.unique(found.prediction).tolist():
        if (category := category_ids[value]) is not None:
            pixels = found.prediction == value
            runs = mask.encode(np.asfortranarray(pixels, "uint8"))
            yield {
                "category_id": category,
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
                "score": round(float(found.confidence[pixels].mean(dtype="float64")), 6),
            }


def coco_ids(dataset: Dataset) -> tuple[Sequence[int], Sequence[int | None]]:
    """Returns image_id of each image and category_id of each class: the COCO file's own, else image 1 and on, and the class's
    number. The background has None.
    """
    images, categories = (getattr(dataset, name, None) for name in ("image_ids", "category_ids"))
    if images is None or categories is None:
        names = dataset.class_names
        images, categories = range(1, len(dataset) + 1), [None if name == "background" else i for i, name in enumerate(names)]
    return images, categories


@contextlib.contextmanager
def _json_list(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields what adds an entry to a JSON list, of which none is held in memory."""
    with path.open("w", encoding="utf-8") as file:
        separator = "["

        def add(entry: dict[str, Any]) -> None:
            nonlocal separator
            file.write(f"{separator}\n{json.dumps(entry)}")
            separator = ","

        yield add
        file.write("[]\n" if separator == "[" else "\n]\n")
