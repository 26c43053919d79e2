"""Writes predictions: label maps, overlays, probabilities, COCO results and the leaderboard's CSV."""

import contextlib
import json
import os
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

FOLDERS = {"labels": ".png", "overlays": ".png", "probabilities": ".npy"}
"""Values of --write that are a folder with a file per image, and the files' suffix."""
FILES = {"results": "results.json", "submission": "submission.csv"}
"""Values of --write that are one file, and its name."""
SKIPPED = "skipped.txt"


def output_path(config: PredictConfig, name: str) -> Path:
    """Returns the folder or file that `name`, a value of --write, is written to."""
    if name == "overlays" and config.video is not None:
        return Path(config.output, f"overlays.{config.video_format}")
    return Path(config.output, FILES.get(name, name))


def outputs(config: PredictConfig) -> list[Path]:
    """Returns the folders and files that predictions are written to."""
    return [output_path(config, name) for name in config.write]


def check_outputs(config: PredictConfig) -> None:
    """Raises KsegError, before anything is predicted, if an output cannot be written. Makes nothing."""
    for path in outputs(config):
        try:
            if path.suffix and path.is_dir():
                raise KsegError(f"--output={config.output}: {path} is a folder, but has to be a file; remove it")
            folder = path.parent if path.suffix else path
            existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        except OSError as error:
            raise KsegError(f"--output={config.output}: {path} cannot be written ({error.strerror})") from None
        if not writable:
            raise KsegError(f"--output={config.output}: {path} cannot be written; name another folder")


def image_files(names: Sequence[str]) -> list[Path]:
    """Returns each image's path below the folders of the outputs, without suffix, or with it where two differ in nothing else.

    Raises KsegError for a name that leads out of the folders.
    """
    stems = [Path(name).with_suffix("") for name in names]
    count = Counter(stems)
    paths = [stem if count[stem] == 1 else Path(name) for name, stem in zip(names, stems, strict=True)]
    if len(set(paths)) < len(paths):  # a.jpg, a.png and a.png.gif
        paths = [Path(name) for name in names]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise KsegError(f"image {str(path)!r}: its name leads out of the output folder; rename the file")
    return paths


def check_inputs_stay(config: PredictConfig, names: Sequence[str], inputs: Sequence[Path]) -> None:
    """Raises KsegError if predictions of images of these names would be written over an input."""
    kept = {path.resolve() for path in inputs}
    written = [Path(config.output, SKIPPED)]
    for name in config.write:
        target = output_path(config, name)
        written += [target] if target.suffix else [Path(target, f"{path}{FOLDERS[name]}") for path in image_files(names)]
    for path in written:
        if path.resolve() in kept:
            raise KsegError(f"--output={config.output}: would write over the input {path}; name another folder")


def write_skipped(config: PredictConfig, lines: Sequence[str]) -> None:
    """Writes skipped.txt; without lines, removes an earlier one."""
    path = Path(config.output, SKIPPED)
    if lines:
        write_text(path, "".join(line + "\n" for line in lines))
    else:
        path.unlink(missing_ok=True)


class PredictionFiles:
    """Context manager that writes the predictions of a data set, image by image.

    The files that hold all images appear when the block ends without an error. Methods raise OSError.
    """

    def __init__(self, config: PredictConfig, dataset: Dataset):
        self._config, self._dataset = config, dataset
        self._names = [dataset.name(index) for index in range(len(dataset))]
        self._paths = image_files(self._names)
        self._image_ids, self._category_ids = coco_ids(dataset)
        self._stack = contextlib.ExitStack()
        self._add_row: Callable[[str, np.ndarray], None] | None = None
        self._add_result: Callable[[dict[str, Any]], None] | None = None

    def __enter__(self) -> "PredictionFiles":
        with self._stack:
            if "submission" in self._config.write:
                self._add_row = self._stack.enter_context(submission_file(self._temporary("submission")))
            if "results" in self._config.write:
                self._add_result = self._stack.enter_context(_json_list(self._temporary("results")))
            self._stack = self._stack.pop_all()
        return self

    def _temporary(self, name: str) -> Path:
        return self._stack.enter_context(atomic_path(output_path(self._config, name)))

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, index: int, prediction: Prediction) -> None:
        """Writes image `index`. Raises KsegError if the image can no longer be read."""
        try:
            image = self._dataset.load(index).image if "overlays" in self._config.write else None
        except BadSample as error:
            raise KsegError(f"{error} It could be read when the run started.") from error
        write_image(self._config, self._paths[index], prediction, image)
        if self._add_row:
            self._add_row(self._names[index], prediction.prediction)
        if self._add_result:
            for result in coco_results(prediction, self._category_ids):
                self._add_result({"image_id": self._image_ids[index], "file_name": self._names[index], **result})


def write_image(config: PredictConfig, path: Path, prediction: Prediction, image: np.ndarray | None = None) -> None:
    """Writes an image's own files.

    path: below the folders of the outputs, without suffix. image: uint8 [H, W, 3]; None writes no overlay.
    """

    def target(name: str) -> Path:
        return Path(config.output, name, f"{path}{FOLDERS[name]}")

    if "labels" in config.write:
        write_label(target("labels"), prediction.prediction)
    if image is not None:
        write_overlay(target("overlays"), image, prediction.prediction)
    if "probabilities" in config.write:
        assert prediction.probabilities is not None
        with atomic_path(target("probabilities")) as temporary:
            np.save(temporary, prediction.probabilities)


def write_label(path: Path, prediction: np.ndarray) -> None:
    """Writes class ids [H, W] as a palette PNG."""
    from PIL import Image

    label = Image.fromarray(prediction.astype("uint8"), "L")
    label.putpalette([*palette(255).ravel().tolist(), *IGNORED])
    with atomic_path(path) as temporary:
        label.save(temporary, optimize=True)


def write_overlay(path: Path, image: np.ndarray, prediction: np.ndarray) -> None:
    """Writes an image with the classes' colours over it as PNG."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(overlay(image, prediction)).save(temporary)


def coco_results(prediction: Prediction, category_ids: Sequence[int | None]) -> Iterator[dict[str, Any]]:
    """Yields an entry of COCO's results format, without the image's id, for each class in an image.

    segmentation: all pixels of the class, compressed RLE. score: their mean probability. category_ids: by class; None skips it.
    """
    from pycocotools import mask

    assert prediction.confidence is not None
    for value in np.unique(prediction.prediction).tolist():
        if (category := category_ids[value]) is not None:
            pixels = prediction.prediction == value
            runs = mask.encode(np.asfortranarray(pixels, "uint8"))
            yield {
                "category_id": category,
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
                "score": round(float(prediction.confidence[pixels].mean(dtype="float64")), 6),
            }


def coco_ids(dataset: Dataset) -> tuple[Sequence[int], Sequence[int | None]]:
    """Returns the image_id of each image and the category_id of each class; the background has None.

    They are the COCO file's own, else images count from 1, and categories are class numbers.
    """
    images, categories = (getattr(dataset, name, None) for name in ("image_ids", "category_ids"))
    if images is None or categories is None:
        names = dataset.class_names
        images, categories = range(1, len(dataset) + 1), [None if name == "background" else i for i, name in enumerate(names)]
    return images, categories


@contextlib.contextmanager
def _json_list(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that appends an entry to a JSON list on disk."""
    with path.open("w", encoding="utf-8") as file:
        separator = "["

        def add(entry: dict[str, Any]) -> None:
            nonlocal separator
            file.write(f"{separator}\n{json.dumps(entry)}")
            separator = ","

        yield add
        file.write("[]\n" if separator == "[" else "\n]\n")
