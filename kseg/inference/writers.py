"""Writes predictions: label maps, overlays, probabilities, annotations for other tools, and the leaderboard's CSV."""

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from kseg.config import PredictConfig
from kseg.data.dataset import Dataset
from kseg.inference.annotations import LOCAL_FILES, category_ids, coco_annotations, coco_masks
from kseg.inference.prediction import Prediction
from kseg.inference.submission import submission_file
from kseg.utils.errors import KsegError
from kseg.utils.files import atomic_path, write_text

FOLDERS = {"labels": ".png", "overlays": ".png", "probabilities": ".npy"}
"""Values of --write that are a folder with a file per image, and the files' suffix."""
FILES = {
    "results": "results.json",
    "coco": "coco.json",
    "label_studio": "label_studio.json",
    "submission": "submission.csv",
}
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


def image_folders(config: PredictConfig) -> list[Path]:
    """Returns the folders below --output that images are written to, by this call or by one with another --write."""
    return [Path(config.output, name) for name, suffix in FOLDERS.items() if suffix == ".png"]


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
        self._config, self._class_names = config, dataset.class_names
        self._names = [dataset.name(index) for index in range(len(dataset))]
        self._paths = image_files(self._names)
        self._image_ids, self._category_ids = coco_ids(dataset)
        self._stack = contextlib.ExitStack()
        self._writers: list[Callable[[int, Prediction], None]] = []

    def __enter__(self) -> "PredictionFiles":
        writers = {"submission": self._submission, "results": self._results, "coco": self._coco, "label_studio": self._tasks}
        with self._stack:
            for name, writer in writers.items():
                if name in self._config.write:
                    file = self._stack.enter_context(atomic_path(output_path(self._config, name)))
                    self._writers.append(self._stack.enter_context(writer(file)))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, index: int, prediction: Prediction) -> None:
        """Writes image `index`."""
        write_image(self._config, self._paths[index], prediction)
        for write in self._writers:
            write(index, prediction)

    @contextlib.contextmanager
    def _submission(self, path: Path) -> Iterator[Callable[[int, Prediction], None]]:
        with submission_file(path) as add_row:
            yield lambda index, prediction: add_row(self._names[index], prediction.labels)

    @contextlib.contextmanager
    def _results(self, path: Path) -> Iterator[Callable[[int, Prediction], None]]:
        """COCO's results format: a list of masks with scores."""
        with path.open("w", encoding="utf-8") as file, json_list(file) as add_entry:

            def add(index: int, prediction: Prediction) -> None:
                for result in coco_masks(prediction, self._category_ids):
                    add_entry({"image_id": self._image_ids[index], "file_name": self._names[index], **result})

            yield add
            file.write("\n")

    @contextlib.contextmanager
    def _coco(self, path: Path) -> Iterator[Callable[[int, Prediction], None]]:
        """An annotation file of COCO's format, with polygons."""
        images: list[dict[str, Any]] = []
        numbers = itertools.count(1)
        categories = [
            {"id": category, "name": name}
            for name, category in zip(self._class_names, self._category_ids, strict=True)
            if category is not None
        ]
        with path.open("w", encoding="utf-8") as file:
            file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": ')
            with json_list(file) as add_entry:

                def add(index: int, prediction: Prediction) -> None:
                    height, width = prediction.labels.shape
                    image_id = self._image_ids[index]
                    images.append({"id": image_id, "file_name": self._names[index], "height": height, "width": width})
                    for found in coco_annotations(prediction, image_id, self._category_ids, "polygons"):
                        add_entry({"id": next(numbers), **found})

                yield add
            file.write(f',\n"images": {json.dumps(images)}}}\n')

    @contextlib.contextmanager
    def _tasks(self, path: Path) -> Iterator[Callable[[int, Prediction], None]]:
        """Tasks of Label Studio."""
        with path.open("w", encoding="utf-8") as file, json_list(file) as add_entry:
            yield lambda index, prediction: add_entry(prediction.to_label_studio(f"{LOCAL_FILES}{self._names[index]}"))
            file.write("\n")


def write_image(config: PredictConfig, path: Path, prediction: Prediction) -> None:
    """Writes an image's own files; of a video's frames, no overlay. path: below the folders of the outputs, without suffix."""

    def target(name: str) -> Path:
        return Path(config.output, name, f"{path}{FOLDERS[name]}")

    if "labels" in config.write:
        prediction.save(target("labels"))
    if "overlays" in config.write and config.video is None:
        with atomic_path(target("overlays")) as temporary:
            prediction.overlay().save(temporary)
    if "probabilities" in config.write:
        assert prediction.probability_map is not None
        with atomic_path(target("probabilities")) as temporary:
            np.save(temporary, prediction.probability_map)


def coco_ids(dataset: Dataset) -> tuple[Sequence[int], Sequence[int | None]]:
    """Returns the image_id of each image and the category_id of each class; the background has None.

    They are the COCO file's own, else images count from 1, and categories are class numbers.
    """
    images, categories = (getattr(dataset, name, None) for name in ("image_ids", "category_ids"))
    if images is None or categories is None:
        images, categories = range(1, len(dataset) + 1), category_ids(dataset.class_names)
    return images, categories


@contextlib.contextmanager
def json_list(file: TextIO) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that appends an entry to a JSON list in a file."""
    separator = "["

    def add(entry: dict[str, Any]) -> None:
        nonlocal separator
        file.write(f"{separator}\n{json.dumps(entry)}")
        separator = ","

    yield add
    file.write("[]" if separator == "[" else "\n]")
