"""COCO segmentations -> masks. pycocotools rasterises polygons; this module validates them first and decodes RLE itself.

pycocotools 2.0.11 crashes (heap corruption) on some malformed RLE strings, and hangs or crashes on polygons with NaN or very
large coordinates. So polygons are checked and clipped before it sees them. RLE strings can only be checked by decoding them, so
they are decoded here (pycocotools' own decode also warns under NumPy 2).

A mask is kept as run lengths: int64 [n], pixels in column-major order, zeros first, then ones, zeros, ....
"""

from typing import Any

import numpy as np
from pycocotools import mask as mask_lib

Segmentation = tuple[np.ndarray, ...] | str | np.ndarray
"""Polygons (float64 [2n] each: x0, y0, x1, ...), a compressed RLE's counts, or an uncompressed RLE's run lengths."""

MAX_COORDINATE = 1e15
"""Larger polygon coordinates are malformed; smaller ones are clipped to the image."""
MAX_OUTLINE = 1e7
"""Longest outline of one polygon in pixels; pycocotools needs 80 bytes of memory for each."""
_MISSING = "it has no segmentation (a list of polygons or an RLE)"
_EMPTY = "its segmentation is empty"
_CHARACTERS = 6  # at most, for one number in a compressed RLE: a 7th would overflow pycocotools' 32-bit shift


class BadMask(Exception):
    """A segmentation that is malformed or does not fit its image. `str()` continues "annotation 7: "."""


def read_segmentation(segmentation: Any, height: int, width: int) -> Segmentation:
    """Returns an annotation's `segmentation` in compact form, after all checks that need no decoding.

    Args:
        segmentation: as JSON gives it: a list of polygons, or a dict with "size" and "counts".
        height, width: of the image, in pixels.

    Raises:
        BadMask: if it is malformed or of another size than the image.
    """
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, height, width)
    if isinstance(segmentation, tuple):  # from pack
        return segmentation
    if not isinstance(segmentation, list):
        raise BadMask(_MISSING)
    if not segmentation:
        raise BadMask(_EMPTY)
    return tuple(_read_polygon(polygon, i) for i, polygon in enumerate(_nested(segmentation)))


def without_empty(segmentation: Any) -> tuple[Any, list[str]]:
    """Returns a segmentation without pieces that cover nothing, None if nothing is left, and a reason for each piece.

    Such pieces are null, empty, or polygons of fewer than three points. What is malformed in another way stays.
    """
    if segmentation is None:
        return None, [_MISSING]
    if segmentation == [] or (isinstance(segmentation, dict) and segmentation.get("counts") in ([], "")):
        return None, [_EMPTY]
    if not isinstance(segmentation, list):
        return segmentation, []
    kept, reasons = [], []
    for number, polygon in enumerate(_nested(segmentation)):
        if polygon is None or (isinstance(polygon, list) and len(polygon) < 6 and set(map(type, polygon)) <= {int, float}):
            reasons.append(f"polygon {number} of its segmentation has {len(polygon or [])} coordinates; 3 points need 6")
        else:
            kept.append(polygon)
    return kept or None, reasons


def _nested(polygons: list[Any]) -> list[Any]:
    """Returns a list of polygons for one polygon as a flat list of coordinates, and others unchanged."""
    return [polygons] if set(map(type, polygons)) <= {int, float} else polygons


def pack(polygons: list[Any]) -> list[Any] | tuple[np.ndarray, ...]:
    """Returns polygons as read_segmentation does; malformed ones unchanged, so that read_segmentation raises with their id."""
    try:
        return tuple(_read_polygon(polygon, i) for i, polygon in enumerate(_nested(polygons)))
    except BadMask:
        return polygons


def count_outside(segmentation: Segmentation, height: int, width: int) -> int:
    """Counts the polygons that extend beyond the image by more than rounding (0.001 pixels)."""
    if not isinstance(segmentation, tuple):
        return 0
    low, high_x, high_y = -1e-3, width + 1e-3, height + 1e-3
    return sum(bool(p.min() < low or p[0::2].max() > high_x or p[1::2].max() > high_y) for p in segmentation)


def to_runs(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Returns the run lengths of the segmentation's mask, int64 [n], with sum height * width. Clips polygons to the image.

    Raises:
        BadMask: if an RLE's counts are malformed or do not add up to height * width.
    """
    if isinstance(segmentation, np.ndarray):
        return segmentation
    if isinstance(segmentation, str):
        runs = decode_counts(segmentation)
        check_runs(runs, height, width)
        return runs
    polygons = [p for polygon in segmentation if len(p := _clip_to_image(polygon, height, width)) >= 6]
    if not polygons:
        return np.array([height * width])
    rles = mask_lib.frPyObjects(polygons, height, width)
    rle = rles[0] if len(rles) == 1 else mask_lib.merge(rles)
    return decode_counts(rle["counts"].decode("ascii"))


def to_mask(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the mask, bool [height, width] in column-major memory, of run lengths with sum height * width."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def paint(masks: list[np.ndarray], values: list[int], height: int, width: int, fill: int) -> np.ndarray:
    """Paints masks over each other, the largest area first and the smallest last; equal areas in the given order.

    Args:
        masks: run lengths of each mask (to_runs).
        values: label value of each mask, 0..255.
        fill: label value of pixels outside all masks.

    Returns:
        uint8 [height, width].
    """
    label = np.full((width, height), fill, np.uint8)  # transposed while painting: masks are column-major
    areas = np.array([runs[1::2].sum() for runs in masks], np.int64)
    for i in np.argsort(-areas, kind="stable"):
        np.putmask(label, to_mask(masks[i], height, width).T, values[i])
    return np.ascontiguousarray(label.T)


def decode_counts(text: str) -> np.ndarray:
    """Returns the run lengths of a compressed RLE, int64 [n], as pycocotools' rleFrString does.

    Each number is written in groups of 5 bits, lowest first, one character (code 48..111) a group. Bit 5 says that more follow,
    bit 4 of the last group is the sign. From the fourth number on, each is the difference to the one two places before.

    Raises:
        BadMask: if the text is not such a code.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise BadMask("its RLE counts have characters that no compressed RLE has") from None
    if not len(codes):
        raise BadMask("its RLE counts are empty")
    if codes.min() < 0 or codes.max() > 63:
        raise BadMask("its RLE counts have characters that no compressed RLE has")
    ends = np.flatnonzero((codes & 0x20) == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise BadMask("its RLE counts end in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _CHARACTERS:
        raise BadMask("its RLE counts have a number that is too large")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((codes & 0x1F) << (5 * places), starts)
    counts -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def check_runs(runs: np.ndarray, height: int, width: int) -> None:
    """Raises BadMask unless the run lengths are non-negative and add up to height * width."""
    if runs.min() < 0 or runs.max() > height * width:
        raise BadMask(f"its RLE has a run of {runs[(runs < 0) | (runs > height * width)][0]} pixels")
    if runs.sum() != height * width:
        raise BadMask(f"its RLE describes {runs.sum()} pixels, the image has {height * width}")


def clip_polygon(points: np.ndarray, normal: tuple[float, float], offset: float) -> np.ndarray:
    """Returns the part of a polygon where normal . point <= offset (Sutherland and Hodgman 1974).

    points: float64 [n, 2]. Returns [m, 2], m = 0 if nothing is left. Parts of a concave polygon stay joined by edges on the line.
    """
    distance = points @ np.asarray(normal, np.float64) - offset
    inside = distance <= 0
    if inside.all():
        return points
    following, next_distance = np.roll(points, -1, axis=0), np.roll(distance, -1)
    crossing = inside != np.roll(inside, -1)
    share = np.divide(distance, distance - next_distance, out=np.zeros_like(distance), where=crossing)
    candidates = np.stack([points, points + share[:, None] * (following - points)], axis=1)
    return candidates[np.stack([inside, crossing], axis=1)]


def _read_polygon(polygon: Any, number: int) -> np.ndarray:
    if not isinstance(polygon, list):
        raise BadMask(f"polygon {number} of its segmentation is not a list of numbers")
    if not set(map(type, polygon)) <= {int, float}:  # exact types: bool is an int to isinstance
        raise BadMask(f"polygon {number} of its segmentation has a value that is not a number")
    if len(polygon) % 2:
        raise BadMask(f"polygon {number} of its segmentation has an odd number of coordinates, {len(polygon)}")
    if len(polygon) < 6:
        raise BadMask(f"polygon {number} of its segmentation has {len(polygon)} coordinates; 3 points need 6")
    try:
        coordinates = np.array(polygon, np.float64)
    except OverflowError:  # an int beyond any float
        coordinates = np.array([np.inf])
    if not np.isfinite(coordinates).all() or np.abs(coordinates).max() > MAX_COORDINATE:
        raise BadMask(f"polygon {number} of its segmentation has a coordinate that is not finite or larger than 1e15")
    return coordinates


def _read_rle(segmentation: dict[str, Any], height: int, width: int) -> Segmentation:
    size, counts = _whole(segmentation.get("size")), _whole(segmentation.get("counts"))
    if not isinstance(size, list) or list(map(type, size)) != [int, int]:
        raise BadMask('the "size" of its RLE is not [height, width]')
    if size != [height, width]:
        raise BadMask(f"its RLE is {size[1]}x{size[0]}, the image {width}x{height} (width x height)")
    if isinstance(counts, str):
        return counts
    if not isinstance(counts, list) or not counts or set(map(type, counts)) != {int}:
        raise BadMask('the "counts" of its RLE are neither a string nor a list of integers')
    if min(counts) < 0 or max(counts) > height * width:  # in Python: the int may not fit NumPy's int64
        raise BadMask("its RLE has a run that is negative or longer than the image")
    runs = np.array(counts, np.int64)
    check_runs(runs, height, width)
    return runs


def _whole(values: Any) -> Any:
    """Returns a list with floats such as 80.0 as int; anything else unchanged."""
    if not isinstance(values, list) or float not in set(map(type, values)):
        return values
    return [int(value) if type(value) is float and value.is_integer() else value for value in values]


def _clip_to_image(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Clips a polygon [2n] to [2m], to at most one image size beyond each edge of the image.

    pycocotools clips the rest itself, so that nearby polygons give the masks that other COCO tools get.
    """
    points = polygon.reshape(-1, 2)
    for normal, bound in (((1, 0), 2 * width), ((-1, 0), width), ((0, 1), 2 * height), ((0, -1), height)):
        points = clip_polygon(points, normal, bound)
    if len(points) and (outline := np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()) > MAX_OUTLINE:
        raise BadMask(f"a polygon of its segmentation has an outline of {outline:.0f} pixels")
    return points.ravel()
