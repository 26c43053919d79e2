"""Traces the regions of a label map as polygons on the edges of pixels.

Pixel (row y, column x) covers x to x + 1 and y to y + 1, and corners have whole coordinates. So a rasteriser that fills pixels by
their centres (pycocotools, matplotlib's Path.contains_points) gives the region back exactly.
OpenCV's findContours goes through the centres of a region's outer pixels instead, which loses half a pixel on each side.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Directions of edges, clockwise in a picture: right, down, left, up; (x, y) of each.
_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])


@dataclass(frozen=True)
class Polygon:
    """A region of one class: pixels that are connected by their sides.

    outer: corners (x, y) in pixels, float64 [N, 2], clockwise as seen. holes: the same, counterclockwise. Rings are closed: the
    last corner is joined to the first. area: in pixels, without holes.
    """

    class_id: int
    class_name: str
    outer: np.ndarray
    holes: tuple[np.ndarray, ...]
    area: float

    def ring(self) -> np.ndarray:
        """Returns one ring [N, 2] that goes round the holes, too, by bridges of no width, for formats that know no holes."""
        ring = self.outer
        for hole in self.holes:
            place = int(np.abs(ring - hole[0]).sum(1).argmin())
            ring = np.concatenate([ring[: place + 1], hole, hole[:1], ring[place:]])
        return ring


def trace(mask: np.ndarray, class_id: int, class_name: str, min_area: float = 0, tolerance: float = 0) -> list[Polygon]:
    """Returns the regions of a mask, bool [H, W], from top to bottom.

    min_area: leave out regions of fewer pixels. tolerance: simplify rings (Douglas-Peucker) by at most so many pixels.
    """
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    cropped = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype("uint8")
    count, regions = cv2.connectedComponents(cropped, connectivity=4)
    areas = np.bincount(regions.ravel(), minlength=count)
    outers: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    for ring, region in _rings(cropped, regions):
        if areas[region] < min_area:
            continue
        x, y = ring.T
        clockwise = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0
        shifted = _simplified(ring + np.array([left - 1, top - 1]), tolerance)
        if clockwise:
            outers[region] = shifted
        elif len(shifted) > 2:
            holes.setdefault(region, []).append(shifted)
    return [
        Polygon(class_id, class_name, outer, tuple(holes.get(region, ())), float(areas[region]))
        for region, outer in sorted(outers.items())
        if len(outer) > 2
    ]


def _rings(mask: np.ndarray, regions: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Returns the corners, int [N, 2], of each ring round the mask's pixels, which are on its right, and the pixels' region.

    mask: uint8 [H, W], 0 along its border. Where two pixels touch by a corner only, a ring stays with its own pixel.
    """
    inside = mask.astype(bool)
    height, width = mask.shape
    # Each edge of a pixel beside another's outside, as the (y, x) of the pixel, by direction.
    outside = [
        inside & ~np.roll(inside, 1, 0),  # above: the edge goes right
        inside & ~np.roll(inside, -1, 1),  # to the right: down
        inside & ~np.roll(inside, -1, 0),  # below: left
        inside & ~np.roll(inside, 1, 1),  # to the left: up
    ]
    pixels = [np.argwhere(edges) for edges in outside]
    starts = np.concatenate([pixel[:, ::-1] + offset for pixel, offset in zip(pixels, _STARTS, strict=True)])
    directions = np.repeat(np.arange(4), [len(pixel) for pixel in pixels])
    corners = starts[:, 1] * (width + 1) + starts[:, 0]
    # The edge that leaves corner c in direction d is number edge_at[d, c].
    edge_at = np.full((4, (height + 1) * (width + 1)), -1)
    edge_at[directions, corners] = np.arange(len(corners))
    ends = starts + _STEPS[directions]
    end_corners = ends[:, 1] * (width + 1) + ends[:, 0]
    following = np.full(len(corners), -1)
    for turn in (3, 0, 1):  # the last that exists wins: a right turn stays with the own pixel
        candidate = edge_at[(directions + turn) % 4, end_corners]
        following = np.where(candidate >= 0, candidate, following)
    pixel_of = np.concatenate(pixels)
    return _cycles(following, directions, starts, regions[pixel_of[:, 0], pixel_of[:, 1]])


_STARTS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # (x, y) of the first corner of a pixel's upper, right, lower and left edge


def _cycles(
    following: np.ndarray, directions: np.ndarray, starts: np.ndarray, regions: np.ndarray
) -> list[tuple[np.ndarray, int]]:
    """Follows edges round each ring, and keeps the corners where the direction changes."""
    preceding = np.empty_like(following)
    preceding[following] = np.arange(len(following))
    turns = directions[preceding] != directions
    # Of each edge, the next that begins at a turn: rings are followed by these alone.
    corner_edges = np.flatnonzero(turns)
    place = np.full(len(following), -1)
    place[corner_edges] = np.arange(len(corner_edges))
    jump = following.copy()
    while not (at_turn := turns[jump]).all():  # doubles the distance
        jump = np.where(at_turn, jump, jump[jump])
    successor = place[jump[corner_edges]].tolist()
    seen = [False] * len(successor)
    rings = []
    for first in range(len(successor)):
        if seen[first]:
            continue
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            ring.append(edge)
            edge = successor[edge]
        edges = corner_edges[ring]
        rings.append((starts[edges], int(regions[edges[0]])))
    return rings


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    if tolerance <= 0:
        return ring.astype("float64")
    return cv2.approxPolyDP(ring.astype("float32")[:, None], tolerance, True)[:, 0].astype("float64")
