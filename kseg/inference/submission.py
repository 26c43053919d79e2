"""The leaderboard's CSV file: image_id,PredictionString, one line per image.

image_id is the image's file_name; PredictionString is the 65536 class ids, separated by spaces, of the prediction resized to
256x256, row by row.
"""

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from kseg.utils.errors import KsegError

SIDE = 256
HEADER = "image_id,PredictionString"
_IDS = [str(value) for value in range(256)]


def resize_prediction(prediction: np.ndarray) -> np.ndarray:
    """Resizes class ids [H, W], 0..255, to uint8 [256, 256] by the nearest pixel centre.

    Row i shows row floor((i + 1/2) H / 256), columns likewise, as Pillow's NEAREST and torch's "nearest-exact" do. torch's
    "nearest" and OpenCV's INTER_NEAREST are shifted by up to half a pixel.
    """
    return cv2.resize(prediction.astype("uint8"), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)


@contextlib.contextmanager
def submission_file(path: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Yields a function that appends a line for (image_id, class ids [H, W]); it raises KsegError if the id has a line break.

    `path` is written in place: pass the temporary name of kseg.utils.files.atomic_path.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        file.write(HEADER + "\n")

        def add(image_id: str, prediction: np.ndarray) -> None:
            if image_id.splitlines() != [image_id]:
                raise KsegError(f"image {image_id!r}: its name has a line break, which a submission cannot have; rename the file")
            writer.writerow([image_id, " ".join([_IDS[value] for value in resize_prediction(prediction).ravel().tolist()])])

        yield add


def write_submission(path: Path, predictions: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes (image_id, class ids [H, W]) as they come, with one in memory. See submission_file."""
    with submission_file(path) as add:
        for image_id, prediction in predictions:
            add(image_id, prediction)


def read_submission(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (image_id, class ids uint8 [256, 256]) of each line. Raises KsegError, with the line's number, for other files."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if file.readline(1000).rstrip("\r\n") != HEADER:
                raise KsegError(f"{path}: line 1 is not {HEADER}")
            for number, line in enumerate(file, 2):
                quoted, comma, text = line.rstrip("\r\n").rpartition(",")  # ids have no comma; csv limits the size of a field
                ids = text.split(" ")
                if not comma or len(ids) != SIDE * SIDE or not all(value.isascii() and value.isdigit() for value in ids):
                    raise KsegError(f"{path}: line {number} is not an image_id with {SIDE * SIDE} class ids")
                values = np.array(ids, dtype="int64")
                if values.max() > 255:
                    raise KsegError(f"{path}: line {number} has class id {values.max()}; the largest possible is 255")
                yield next(csv.reader([quoted]))[0], values.astype("uint8").reshape(SIDE, SIDE)
    except OSError as error:
        raise KsegError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KsegError(f"{path}: is not a text file in UTF-8") from None
