"""Draws the scenes of the synthetic data set: litter on textured ground, with COCO annotations."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from kseg.data.sources import coco_masks
from kseg.data.sources.synthetic.objects import KINDS, noise

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Scene:
    """image: uint8 [S, S, 3]. kinds: int [S, S], 0 for ground, else 1 + index into KINDS. annotations: without ids."""

    image: np.ndarray
    kinds: np.ndarray
    annotations: list[dict[str, Any]]


def draw_scene(generator: np.random.Generator, size: int, kinds: list[int]) -> Scene:
    """Draws one object for each index into KINDS, larger areas first, as CocoDataset paints them."""
    centres: list[np.ndarray] = []
    placed = [_place(generator, size, kind, centres) for kind in kinds]
    objects = [shape for shape in placed if shape is not None]
    image = _ground(generator, size)
    drawn = np.zeros((size, size), np.int64)
    for i in np.argsort([-shape.annotation["area"] for shape in objects], kind="stable"):
        _draw(generator, image[objects[i].window], objects[i], size)
        drawn[objects[i].window][objects[i].alpha > 0.5] = 1 + objects[i].kind
    return Scene(_photograph(generator, image), drawn, [shape.annotation for shape in objects])


@dataclass(frozen=True)
class _Object:
    """u, v, alpha (coverage of the pixel): [h, w] in `window`, a part of the image with room for a shadow."""

    kind: int
    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    alpha: np.ndarray
    annotation: dict[str, Any]


def _place(generator: np.random.Generator, size: int, kind: int, centres: list[np.ndarray]) -> _Object | None:
    """Draws the shape, position, size and rotation of an object; returns None if hardly any of it is in the image.

    centres: of the objects so far, to keep away from. The new one is added.
    """
    look = KINDS[kind]
    radius = size * look.scale * generator.uniform(0.12, 0.21)
    candidates = generator.uniform(0.08 * size, 0.92 * size, (6, 2))
    spacing = [min((np.hypot(*(candidate - other)) for other in centres), default=0.0) for candidate in candidates]
    centre = candidates[int(np.argmax(spacing))]
    centres.append(centre)
    angle, stretch = generator.uniform(0, 2 * np.pi), generator.uniform(0.85, 1.15)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = radius * rotation * [stretch, 1 / stretch]
    rings = [ring @ forward.T + centre for ring in look.rings(generator)]
    has_holes = len(rings) > 1
    if not has_holes and generator.random() < 0.15:
        rings = _cut_in_two(generator, rings[0], centre, 0.16 * radius)
    rings = [np.round(ring, 2) for ring in (_inside(ring, size) for ring in rings) if len(ring)]
    if not rings:
        return None

    room = size // 16
    low = np.maximum(np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0)).astype(int) - room, 0)
    high = np.minimum(np.ceil(np.max([ring.max(axis=0) for ring in rings], axis=0)).astype(int) + room, size)
    window = slice(low[1], high[1]), slice(low[0], high[0])
    alpha = _coverage([ring - low for ring in rings], high[1] - low[1], high[0] - low[0])
    segmentation: Any = [ring.ravel().tolist() for ring in rings]
    if has_holes:  # COCO's polygons cannot have holes
        mask = np.zeros((size, size), bool)
        mask[window] = alpha > 0.5
        segmentation = _rle(mask, compressed=len(centres) % 2 == 0)
    mask = coco_masks.to_mask(coco_masks.to_runs(coco_masks.read_segmentation(segmentation, size, size), size, size), size, size)
    if np.count_nonzero(mask) < 0.002 * size * size:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    bbox = [float(x) for x in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]
    grid = np.stack(np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), axis=-1) + 0.5 - centre
    u, v = np.moveaxis(grid @ np.linalg.inv(forward).T, -1, 0)
    area = int(np.count_nonzero(mask))
    annotation = {"category_id": 1 + kind, "segmentation": segmentation, "area": area, "bbox": bbox, "iscrowd": 0}
    return _Object(kind, window, u, v, alpha, annotation)


def _cut_in_two(generator: np.random.Generator, ring: np.ndarray, centre: np.ndarray, gap: float) -> list[np.ndarray]:
    angle = generator.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])
    offset = float(normal @ centre)
    return [
        coco_masks.clip_polygon(ring, (normal[0], normal[1]), offset - gap / 2),
        coco_masks.clip_polygon(ring, (-normal[0], -normal[1]), -offset - gap / 2),
    ]


def _inside(ring: np.ndarray, size: int) -> np.ndarray:
    for normal, bound in (((1, 0), size), ((-1, 0), 0), ((0, 1), size), ((0, -1), 0)):
        ring = coco_masks.clip_polygon(ring, normal, bound)
    return ring


def _coverage(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Returns the share of each pixel inside the rings (even-odd), float32 [height, width]."""
    canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    shift = 4  # fractional bits of OpenCV's coordinates, which refer to pixel centres
    points = [np.round((ring * _SUPERSAMPLING - 0.5) * 2**shift).astype(np.int32) for ring in rings]
    cv2.fillPoly(canvas, points, 255, shift=shift)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _rle(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    counts = [0, *counts] if flat[0] else counts
    size = list(mask.shape)
    if not compressed:
        return {"size": size, "counts": counts}
    return {"size": size, "counts": coco_masks.mask_lib.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()}


def _draw(generator: np.random.Generator, image: np.ndarray, shape: _Object, size: int) -> None:
    """Draws the object and its soft shadow into `image`, its window, float32 [h, w, 3], in place."""
    look = KINDS[shape.kind]
    shift = np.array([[1, 0, generator.uniform(-3, 3) * size / 256], [0, 1, generator.uniform(1, 5) * size / 256]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(shape.alpha, shift, shape.alpha.shape[::-1]), (0, 0), size / 90)
    image *= 1 - 0.4 * (shadow * (1 - shape.alpha))[..., None]
    colours = look.texture(generator, shape.u, shape.v)
    slope = generator.uniform(-0.15, 0.15, 2)
    colours *= (generator.uniform(0.85, 1.1) + slope[0] * shape.u + slope[1] * shape.v)[..., None]
    colours *= 0.82 + 0.18 * np.clip(cv2.GaussianBlur(shape.alpha, (0, 0), size / 100) * 2 - 1, 0, 1)[..., None]  # darker rims
    alpha = (shape.alpha * generator.uniform(*look.opacity))[..., None]
    image += alpha * (np.clip(colours, 0, 255) - image)


def _photograph(generator: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Adds light from one side, a white balance, blur and noise; returns uint8 [S, S, 3]."""
    size = len(image)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle, strength = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.3)
    light = generator.uniform(0.8, 1.25) * (1 + strength * (np.cos(angle) * x + np.sin(angle) * y))
    image = image * light[..., None] * generator.uniform(0.93, 1.07, 3)
    if (sigma := generator.uniform(0, 1.0)) > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image = image + generator.normal(0, generator.uniform(2, 8), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _ground(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draws concrete, earth, grass or boards: a dull colour, a gradient, noise, often joints; float32 [S, S, 3]."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    base = np.array([(118, 116, 112), (112, 92, 70), (86, 100, 62), (138, 112, 82), (70, 74, 82)])[generator.integers(5)]
    base = base * generator.uniform(0.8, 1.2) + generator.normal(0, 6, 3)
    angle = generator.uniform(0, np.pi)
    shade = generator.uniform(-14, 14) * x + generator.uniform(-14, 14) * y
    for cells, weight in ((4, 50), (16, 36), (64, 34), (size // 2, 30)):
        shade = shade + weight * (noise(generator, (size, size), cells) - 0.5)
    if generator.random() < 0.45:
        position = (np.cos(angle) * x + np.sin(angle) * y) * generator.uniform(1.5, 4)
        shade = shade - 30 * (np.abs(position - np.round(position)) < 0.04) + 9 * np.cos(5 * np.round(position))
    tint = (noise(generator, (size, size), 6) - 0.5)[..., None] * generator.normal(0, 12, 3)
    return (base + shade[..., None] + tint).astype(np.float32)
