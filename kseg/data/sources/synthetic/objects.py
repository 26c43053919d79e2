"""Eleven kinds of litter for the synthetic scenes, each with its own shape, colours and texture.

An object is drawn in its own coordinates u and v (downwards), where it fills about -1..1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Range = tuple[float, float]
Texture = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
"""(generator, u [h, w], v [h, w]) -> colours, float [h, w, 3], about 0..255."""


@dataclass(frozen=True)
class Kind:
    """The appearance of one class: rings of its outline (even-odd, holes after the first), texture, size and opacity."""

    name: str
    rings: Callable[[np.random.Generator], list[np.ndarray]]
    texture: Texture
    scale: float = 1.0
    opacity: Range = (1.0, 1.0)


def noise(generator: np.random.Generator, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """Returns smooth noise 0..1 of `shape` [h, w], with `cells` bumps across."""
    coarse = generator.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), 0, 1)


def _colour(generator: np.random.Generator, hue: Range, saturation: Range, value: Range) -> np.ndarray:
    """Returns a random RGB colour 0..255. hue: in degrees, may exceed 360. saturation, value: 0..1."""
    h, s, v = generator.uniform(*hue) % 360, generator.uniform(*saturation), generator.uniform(*value)
    k = (np.array([5.0, 3.0, 1.0]) + h / 60) % 6
    return 255 * (v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1))


def _patches(generator: np.random.Generator, u: np.ndarray, v: np.ndarray, count: int) -> np.ndarray:
    """Returns the index of the nearest of `count` random points, int [h, w]."""
    points = generator.uniform(-1.1, 1.1, (count, 2))
    return np.argmin([(u - x) ** 2 + (v - y) ** 2 for x, y in points], axis=0)


def _blob(generator: np.random.Generator, corners: int, inner: float) -> np.ndarray:
    angles = 2 * np.pi * (np.arange(corners) + generator.uniform(-0.3, 0.3, corners)) / corners
    radii = generator.uniform(inner, 1, corners)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def _mirrored(half: list[tuple[float, float]]) -> np.ndarray:
    """Returns a symmetric closed outline. half: its right half, from top to bottom."""
    right = np.array(half)
    return np.concatenate([right, right[::-1] * [-1, 1]])


def _unknown_rings(generator: np.random.Generator) -> list[np.ndarray]:
    star = _blob(generator, 2 * int(generator.integers(5, 8)), 0.85)
    star[1::2] *= generator.uniform(0.5, 0.65)
    return [star]


def _unknown(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    colours = np.stack([_colour(generator, (0, 360), (0.6, 1), (0.35, 1)) for _ in range(7)])
    return colours[_patches(generator, u, v, 22) % 7]


def _trash_rings(generator: np.random.Generator) -> list[np.ndarray]:
    return [_blob(generator, int(generator.integers(11, 16)), 0.72)]


def _trash(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    shades = generator.uniform(0.45, 1.3, 40)[_patches(generator, u, v, 40)]
    return shades[..., None] * _colour(generator, (15, 40), (0.25, 0.6), (0.22, 0.42))


def _paper_rings(generator: np.random.Generator) -> list[np.ndarray]:
    corners = np.array([(-0.72, -0.95), (0.72, -0.95), (0.72, 0.95), (-0.72, 0.95)])
    return [corners + generator.uniform(-0.09, 0.09, (4, 2))]


def _paper(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    colours = np.ones((*u.shape, 1)) * _colour(generator, (30, 60), (0, 0.12), (0.86, 1))
    lines = (v * generator.uniform(4, 6)) % 1.0 < 0.42
    ends = generator.uniform(0.1, 0.6, 32)[np.clip(np.round(v * 6).astype(int) + 16, 0, 31)]
    text = lines & (np.abs(v) < 0.82) & (u > -0.56) & (u < ends) & (np.sin(u * 40 + 9 * np.round(v * 6)) > -0.75)
    colours[text] = 60
    return colours


def _pack_rings(generator: np.random.Generator) -> list[np.ndarray]:
    shoulder, neck = generator.uniform(-0.6, -0.4), generator.uniform(0.25, 0.4)
    return [_mirrored([(neck, -1), (neck, -0.86), (0.6, shoulder), (0.6, 1)])]


def _pack(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    white, print_ = _colour(generator, (0, 360), (0, 0.06), (0.85, 1)), _colour(generator, (190, 260), (0.65, 0.95), (0.5, 0.9))
    printed = (v > 0.2 + 0.12 * np.sin(5 * u + generator.uniform(0, 6))) | ((v > -0.42) & (v < -0.25)) | (v < -0.86)
    colours = np.where(printed[..., None], print_, white)
    return colours * np.where(u > 0.18, 0.72, 1.0)[..., None]  # two sides of a box


def _metal_rings(generator: np.random.Generator) -> list[np.ndarray]:
    flat, hole = generator.uniform(0.7, 1), generator.uniform(0.42, 0.58)
    x, y = generator.uniform(-0.06, 0.06, 2)
    return [_ellipse(0, 0, 1, flat), _ellipse(x, y, hole, hole * flat)]


def _metal(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    shine = 0.62 + 0.34 * np.cos(3 * angle + generator.uniform(0, 6)) + 0.12 * np.cos(40 * radius)
    return shine[..., None] * _colour(generator, (195, 225), (0.08, 0.22), (0.72, 0.92)) + 12


def _glass_rings(generator: np.random.Generator) -> list[np.ndarray]:
    neck, body = generator.uniform(0.13, 0.18), generator.uniform(0.38, 0.46)
    half = [(neck, -1), (neck, -0.45), (body * 0.8, -0.22), (body, 0), (body, 0.9), (body - 0.08, 1)]
    return [_mirrored(half)]


def _glass(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    hue = (95, 150) if generator.random() < 0.6 else (20, 35)
    colours = (0.75 + 1.2 * u**2)[..., None] * _colour(generator, hue, (0.7, 1), (0.3, 0.5))
    streak = np.exp(-(((u - generator.uniform(-0.2, 0.2)) / 0.06) ** 2)) * (v > -0.8)
    return colours + 190 * streak[..., None]


def _plastic_rings(generator: np.random.Generator) -> list[np.ndarray]:
    foot = generator.uniform(0.42, 0.55)
    return [_mirrored([(0.8, -0.9), (0.8, -0.72), (0.72, -0.72), (foot, 0.9)])]


def _plastic(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    colour = _colour(generator, (320, 420), (0.75, 1), (0.8, 1))
    ribs = 0.85 + 0.22 * np.sin(v * generator.uniform(16, 22)) - 0.25 * u**2
    colours = ribs[..., None] * colour
    colours[v < -0.72] = 0.4 * colour + 150
    return colours


def _styrofoam_rings(generator: np.random.Generator) -> list[np.ndarray]:
    block = np.array([(-0.9, -0.6), (-0.1, -0.72), (0.9, -0.6), (0.9, 0.1), (0.55, 0.25), (0.6, 0.62), (-0.2, 0.66), (-0.9, 0.6)])
    return [block + generator.uniform(-0.1, 0.1, block.shape)]


def _styrofoam(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    beads = np.cos(u * 26) * np.cos(v * 26) + np.cos(u * 26 + v * 15)
    grey = 210 + 22 * beads + generator.uniform(-10, 10)
    return grey[..., None] * np.array([0.98, 1.0, 1.03])


def _bag_rings(generator: np.random.Generator) -> list[np.ndarray]:
    half = [(0.2, -0.45), (0.3, -0.98), (0.62, -1), (0.72, -0.4), (0.85, 0.2), (0.78, 0.8), (0.4, 0.97)]
    body = _mirrored(half) + generator.uniform(-0.06, 0.06, (14, 2))
    return [body, _ellipse(0.45, -0.68, 0.1, 0.2), _ellipse(-0.45, -0.68, 0.1, 0.2)]


def _bag(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    wrinkles = np.abs(noise(generator, u.shape, 7) - noise(generator, u.shape, 11))
    colour = _colour(generator, (160, 200), (0.25, 0.5), (0.85, 1))
    return (0.72 + 0.7 * wrinkles)[..., None] * colour


def _battery_rings(generator: np.random.Generator) -> list[np.ndarray]:
    wide = generator.uniform(0.36, 0.44)
    return [_mirrored([(0.16, -1), (0.16, -0.88), (wide, -0.88), (wide, 1)])]


def _battery(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    end = _colour(generator, (28, 45), (0.7, 0.95), (0.8, 1))
    colours = np.where((v < generator.uniform(-0.45, -0.25))[..., None], end, generator.uniform(18, 45))
    colours[np.abs(v - 0.55) < 0.06] = 215
    return colours * (1.15 - 3.2 * u**2)[..., None] + 60 * np.exp(-(((u + 0.12) / 0.06) ** 2))[..., None]


def _clothing_rings(generator: np.random.Generator) -> list[np.ndarray]:
    sleeve = generator.uniform(-0.25, -0.05)
    half = [(0.18, -0.85), (0.45, -0.9), (1.0, -0.4), (0.8, sleeve), (0.52, -0.3), (0.52, 0.95)]
    return [np.concatenate([_mirrored(half), [(0.0, -0.72)]]) + generator.uniform(-0.03, 0.03, (13, 2))]


def _clothing(generator: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    first = _colour(generator, (255, 300), (0.45, 0.8), (0.4, 0.75))
    second = _colour(generator, (40, 60), (0.2, 0.5), (0.8, 1))
    count = generator.uniform(3, 5)
    stripes = (v * count) % 1.0 < 0.4
    if generator.random() < 0.5:
        stripes ^= (u * count) % 1.0 < 0.4
    folds = 0.85 + 0.3 * noise(generator, u.shape, 6)
    return np.where(stripes[..., None], second, first) * folds[..., None]


KINDS = (
    Kind("UNKNOWN", _unknown_rings, _unknown, scale=1.15),
    Kind("General trash", _trash_rings, _trash, scale=0.9),
    Kind("Paper", _paper_rings, _paper, scale=0.95),
    Kind("Paper pack", _pack_rings, _pack, scale=1.1),
    Kind("Metal", _metal_rings, _metal),
    Kind("Glass", _glass_rings, _glass, scale=1.35, opacity=(0.82, 0.95)),
    Kind("Plastic", _plastic_rings, _plastic),
    Kind("Styrofoam", _styrofoam_rings, _styrofoam),
    Kind("Plastic bag", _bag_rings, _bag, scale=1.05, opacity=(0.7, 0.9)),
    Kind("Battery", _battery_rings, _battery, scale=1.2),
    Kind("Clothing", _clothing_rings, _clothing, scale=1.1),
)
"""The index is the category id - 1. Names: those of the trash data set of the reference experiments, without background."""
