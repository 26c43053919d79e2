"""Colours of the classes in reports, predictions and overlays."""

import functools
from collections.abc import Iterable

import numpy as np

from kseg.data.dataset import IGNORE_INDEX

IGNORED = (196, 196, 196)
"""RGB of ignored pixels. No class is grey."""

# Class 0, often the background, is dark. Then come the colours of Okabe & Ito, which colour-blind readers can tell apart.
_FIRST = ("262a36", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")


def palette(num_classes: int) -> np.ndarray:
    """Returns distinct colours of classes 0 .. num_classes - 1, uint8 [num_classes, 3] RGB.

    The colour of a class does not depend on the number of classes. After the first eight, each colour is the one farthest (in
    OKLab) from all before it, among those that are neither grey nor nearly black or white. Raises ValueError beyond 255 classes.
    """
    if not 0 <= num_classes <= IGNORE_INDEX:
        raise ValueError(f"a palette has 0 to {IGNORE_INDEX} colours, not {num_classes}")
    return _colors()[:num_classes].copy()


def hex_color(rgb: Iterable[int]) -> str:
    """Returns an RGB colour for CSS."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def hex_colors(count: int) -> list[str]:
    """Returns the classes' colours for CSS."""
    return [hex_color(color) for color in palette(count)]


def colorize(label: np.ndarray) -> np.ndarray:
    """Maps a label map or prediction, integers [...] with 255 for ignored pixels, to colours, uint8 [..., 3] RGB."""
    return _colors()[label]


def overlay(image: np.ndarray, label: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Blends the colours of a label map or prediction (integers [H, W]) over an image (uint8 [H, W, 3]); returns uint8 [H, W, 3].

    Ignored pixels show the image, hatched in light grey, so that they do not look like a class.
    """
    mixed = np.round(image * (1 - opacity) + colorize(label) * opacity).astype("uint8")
    ignored = label == IGNORE_INDEX
    mixed[ignored] = image[ignored]
    mixed[ignored & stripes(label.shape)] = IGNORED
    return mixed


def stripes(shape: tuple[int, ...]) -> np.ndarray:
    """Returns the hatching of ignored pixels, bool [H, W]: diagonal lines that cover a quarter of the pixels."""
    height, width = shape
    period = max(4, max(height, width) // 48)
    return np.add.outer(np.arange(height), np.arange(width)) % period < max(1, period // 4)


@functools.cache
def _colors():
    """uint8 [256, 3]: the classes' colours, and at 255 the colour of ignored pixels."""
    levels = np.arange(0, 256, 17, dtype="uint8")
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _oklab(candidates)
    usable = (lab[:, 0] > 0.42) & (lab[:, 0] < 0.95) & (np.hypot(lab[:, 1], lab[:, 2]) > 0.05)
    candidates, lab = candidates[usable], lab[usable]
    chosen = [np.frombuffer(bytes.fromhex(code), "uint8") for code in _FIRST]
    nearest = np.min([_distance(lab, color) for color in [*chosen, np.array(IGNORED, "uint8")]], axis=0)
    while len(chosen) < IGNORE_INDEX:
        chosen.append(candidates[nearest.argmax()])
        nearest = np.minimum(nearest, _distance(lab, chosen[-1]))
    return np.array([*chosen, IGNORED], "uint8")


def _distance(lab, color):
    return np.linalg.norm(lab - _oklab(color), axis=-1)


def _oklab(color):
    """sRGB uint8 [..., 3] to OKLab (Ottosson 2020), float64, where distances are roughly what the eye sees."""
    value = np.asarray(color) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
              [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
              [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.cbrt(linear @ np.transpose(to_lms)) @ np.transpose(to_lab)
