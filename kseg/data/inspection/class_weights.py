"""Class weights for the loss, computed from pixel counts or read from a file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kseg.data.check import map_samples
from kseg.data.dataset import Dataset
from kseg.utils.errors import KsegError


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs in a split; all arrays are int64 [C].

    pixels: of the class. images: number of images with the class. image_pixels: all pixels of those images, ignored ones too.
    """

    pixels: np.ndarray
    images: np.ndarray
    image_pixels: np.ndarray


def pixel_counts(label: np.ndarray) -> np.ndarray:
    """Counts the pixels of each value in a label map, int64 [256]."""
    return np.bincount(label.ravel(), minlength=256)


def sum_counts(counts: Iterable[np.ndarray], num_classes: int) -> ClassCounts:
    """Adds up the counts of images (pixel_counts), int64 [256] each."""
    total = ClassCounts(*np.zeros((3, num_classes), np.int64))
    for count in counts:
        present = count[:num_classes] > 0
        total.pixels[:] += count[:num_classes]
        total.images[:] += present
        total.image_pixels[present] += count.sum()
    return total


def median_frequency(counts: ClassCounts) -> np.ndarray:
    """Median-frequency weights (Eigen & Fergus 2015, arXiv:1411.4734), float64 [C].

    weight(c) = median(freq) / freq(c), where freq(c) = pixels of c / pixels of the images with c. The median is over the classes
    that occur; a class that does not occur weighs 0.
    """
    frequency = counts.pixels / np.maximum(counts.image_pixels, 1)
    present = counts.pixels > 0
    if not present.any():
        return np.zeros(len(frequency))
    return np.where(present, np.median(frequency[present]) / np.where(present, frequency, 1), 0.0)


def inverse(counts: ClassCounts) -> np.ndarray:
    """Inverse-frequency weights, float64 [C].

    weight(c) = labelled pixels / (number of classes that occur * pixels of c), so that the mean over the labelled pixels is 1. A
    class that does not occur weighs 0.
    """
    present = counts.pixels > 0
    return np.where(present, counts.pixels.sum() / (max(present.sum(), 1) * np.maximum(counts.pixels, 1)), 0.0)


FORMULAS = {"median_frequency": median_frequency, "inverse": inverse}


def find_class_weights(setting: str, dataset: Dataset) -> list[float] | None:
    """Returns the weights of --class_weights for the classes of the training split, or None.

    Args:
        setting: "none"; a name in FORMULAS, computed over `dataset`, which is read once; or a file, see read_class_weights.
        dataset: the training split.

    Raises:
        KsegError: if the file is malformed or has other classes.
    """
    if setting == "none":
        return None
    if setting in FORMULAS:
        counts = map_samples(dataset, lambda index: pixel_counts(dataset.load(index).label), description="class weights")
        return FORMULAS[setting](sum_counts(counts, len(dataset.class_names))).tolist()
    return read_class_weights(setting, dataset.class_names)


def check_setting(setting: str) -> None:
    """Raises KsegError if --class_weights is neither a formula nor an existing file. Reads nothing."""
    if setting != "none" and setting not in FORMULAS and not Path(setting.partition("#")[0]).expanduser().is_file():
        raise KsegError(f"--class_weights={setting}: is neither none, {', '.join(FORMULAS)} nor an existing file; choose one")


def read_class_weights(setting: str, class_names: Sequence[str]) -> list[float]:
    """Reads weights from a JSON file: a list in the order of the classes, an object {class name: weight}, or an inspection.json.

    setting: "FILE", or "FILE#KEY" for other weights of an inspection.json than median_frequency. Raises KsegError unless the
    file has a weight for each class in class_names and for no other.
    """
    file, _, key = setting.partition("#")
    try:
        content = json.loads(Path(file).expanduser().read_bytes())
    except OSError as error:
        raise KsegError(f"--class_weights={file}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise KsegError(f"--class_weights={file}: is not valid JSON ({error}); fix the file") from None
    if isinstance(content, dict) and isinstance(tables := content.get("class_weights"), dict):
        key = key or "median_frequency"
        if not isinstance(tables.get(key), dict):
            raise KsegError(f"--class_weights={setting}: the file has no weights {key!r}; choose {' or '.join(sorted(tables))}")
        content = tables[key]
    elif key:
        raise KsegError(f"--class_weights={setting}: only an inspection.json has several kinds of weights; leave out #{key}")
    if isinstance(content, dict):
        missing, unknown = [n for n in class_names if n not in content], sorted(set(content) - set(class_names))
        if missing or unknown:
            problem = f"has no weight for class {missing[0]!r}" if missing else f"weighs {unknown[0]!r}, which is not a class"
            raise KsegError(f"--class_weights={file}: {problem} of the training split; use the file of this data set")
        content = [content[name] for name in class_names]
    if not isinstance(content, list) or len(content) != len(class_names):
        problem = f"has {len(content)} weights" if isinstance(content, list) else "is neither a list nor an object of weights"
        raise KsegError(f"--class_weights={file}: {problem}; the training split needs {len(class_names)}")
    for name, weight in zip(class_names, content, strict=True):
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise KsegError(
                f"--class_weights={file}: the weight of {name!r} is {weight!r}; it must be a finite number, 0 or more"
            )
    if not any(content):
        raise KsegError(f"--class_weights={file}: every weight is 0, so nothing would be learnt; raise one")
    return [float(weight) for weight in content]
