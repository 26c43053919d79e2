"""Segmentations to masks: equal to pycocotools where that is safe, and safe where it is not."""

import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_lib

from kseg.data.sources.coco_masks import (
    BadMask,
    check_runs,
    clip_polygon,
    count_outside,
    decode_counts,
    pack,
    paint,
    read_segmentation,
    to_mask,
    to_runs,
    without_empty,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own decode.


def decode(segmentation, height, width):
    return to_mask(to_runs(read_segmentation(segmentation, height, width), height, width), height, width)


def runs(mask):
    """Uncompressed RLE counts of a mask, computed without pycocotools."""
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes])).tolist() if len(changes) else []


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (61, 47), (700, 800)])
def test_both_kinds_of_rle_give_the_mask_that_was_encoded(density, size):
    mask = (np.random.default_rng(7).random(size) < density).astype(np.uint8)
    compressed = mask_lib.encode(np.asfortranarray(mask))["counts"].decode()
    counts = decode_counts(compressed)
    check_runs(counts, *size)
    assert counts.tolist() == runs(mask)
    assert (decode({"size": list(size), "counts": compressed}, *size) == mask).all()
    assert (decode({"size": list(size), "counts": counts.tolist()}, *size) == mask).all()


def test_several_polygons_are_united():
    left, right = [1, 1, 1, 9, 5, 9, 5, 1], [3, 2, 3, 8, 9, 8, 9, 2]
    both = decode([left, right], 10, 12)
    assert (both == (decode([left], 10, 12) | decode([right], 10, 12))).all()
    assert both[1:9, 1:5].all()
    assert both[2:8, 3:9].all()
    assert both.sum() == 8 * 4 + 6 * 4


def test_a_mask_is_decoded_as_pycocotools_does():
    for seed in range(50):
        generator = np.random.default_rng(seed)
        polygons = [generator.uniform(-20, 45, 2 * n).tolist() for n in generator.integers(3, 9, 3)]
        expected = mask_lib.decode(mask_lib.merge(mask_lib.frPyObjects(polygons, 25, 30)))
        assert (decode(polygons, 25, 30) == expected).all()


def test_a_polygon_inside_the_image_equals_pycocotools():
    polygon = [3.2, 4.1, 55.7, 0.0, 64.0, 47.9, 12.25, 48.0]
    assert (decode([polygon], 48, 64) == mask_lib.decode(mask_lib.frPyObjects([polygon], 48, 64)[0])).all()


@pytest.mark.parametrize("radius", [40, 90, 300, 3000, 1e6])
def test_polygons_outside_equal_the_geometric_clip_within_boundary_pixels(radius):
    """The even-odd fill at the pixel centres is the reference; a pixel may differ only where the outline passes near it."""
    height, width = 48, 64
    rows, columns = np.mgrid[:height, :width] + 0.5
    for seed in range(12):
        generator = np.random.default_rng(seed)
        angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
        radii = radius * generator.uniform(0.2, 1, 9)
        x = generator.uniform(0, width) + radii * np.cos(angles)
        y = generator.uniform(0, height) + radii * np.sin(angles)
        expected = np.zeros((height, width), bool)
        distance = np.full((height, width), np.inf)
        for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
            if y0 != y1:
                expected ^= ((y0 <= rows) != (y1 <= rows)) & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
            along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
            distance = np.minimum(distance, np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0)))
        mask = decode([np.stack([x, y], axis=1).ravel().tolist()], height, width)
        assert not (mask != expected)[distance > 1.0].any()
        assert (mask != expected).sum() <= 0.5 * (distance <= 1.0).sum()


@pytest.mark.parametrize("big", [1e6, 1e9, 1e12, 1e15])
def test_enormous_coordinates_are_clipped(big):
    assert decode([[-big, -big, big, -big, big, big, -big, big]], 10, 12).all()
    half = decode([[-big, -big, 6, -big, 6, big, -big, big]], 10, 12)
    assert half[:, :6].all()
    assert not half[:, 6:].any()
    assert not decode([[big, big, big, big / 2, big / 2, big]], 10, 12).any()


def test_a_polygon_without_area_is_an_empty_mask():
    assert not decode([[2, 2, 2, 2, 2, 2]], 10, 10).any()
    assert not decode([[2, 2, 8, 2, 2, 2]], 10, 10).any()


def test_clip_polygon_cuts_a_square_in_half():
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    assert clip_polygon(square, (1, 0), 2).tolist() == [[0, 0], [2, 0], [2, 4], [0, 4]]
    assert clip_polygon(square, (1, 0), -1).shape == (0, 2)
    assert clip_polygon(square, (1, 0), 5) is square


def test_count_outside():
    inside, rounding, outside = [0, 0, 12, 0, 12, 10], [-1e-6, 0, 12, 0, 12, 10], [0, 0, 12, 0, 12, 10.5]
    assert count_outside(read_segmentation([inside, rounding], 10, 12), 10, 12) == 0
    assert count_outside(read_segmentation([inside, outside, outside], 10, 12), 10, 12) == 2
    assert count_outside(read_segmentation({"size": [10, 12], "counts": [120]}, 10, 12), 10, 12) == 0


def test_larger_masks_are_painted_first_and_equal_ones_in_order():
    def box(x0, y0, x1, y1):
        return to_runs(read_segmentation([[x0, y0, x1, y0, x1, y1, x0, y1]], 8, 8), 8, 8)

    small, large = box(2, 2, 4, 4), box(0, 0, 6, 6)
    label = paint([small, large], [1, 2], 8, 8, fill=9)
    assert label.dtype == np.uint8
    assert label.flags.c_contiguous
    assert (np.bincount(label.ravel()) == [0, 4, 32, 0, 0, 0, 0, 0, 0, 28]).all()
    assert (label[2:4, 2:4] == 1).all()
    assert (paint([box(0, 0, 4, 2), box(2, 0, 6, 2)], [1, 2], 8, 8, fill=0)[0] == [1, 1, 2, 2, 2, 2, 0, 0]).all()
    assert (paint([], [], 2, 3, fill=255) == np.full((2, 3), 255)).all()


BAD = {
    "null": (None, "no segmentation"),
    "text": ("abc", "no segmentation"),
    "no polygons": ([], "empty"),
    "flat": ([1.0, 2.0, 3.0, 4.0], "polygon 0 of its segmentation has 4 coordinates"),
    "flat and nested": ([1.0, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], "polygon 0 of its segmentation is not a list"),
    "points": ([[[1, 2], [3, 4], [5, 6]]], "not a number"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "odd number of coordinates, 7"),
    "two points": ([[1, 2, 3, 4]], "has 4 coordinates; 3 points need 6"),
    "second": ([[1, 2, 3, 4, 5, 6], []], "polygon 1 of its segmentation has 0 coordinates"),
    "strings": ([["1", "2", "3", "4", "5", "6"]], "not a number"),
    "bool": ([[1, 2, 3, 4, 5, True]], "not a number"),
    "null inside": ([[1, 2, 3, 4, 5, None]], "not a number"),
    "nan": ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
    "infinite": ([[1, 2, 3, 4, 5, float("inf")]], "not finite"),
    "1e300": ([[1, 2, 3, 4, 5, 1e300]], "larger than 1e15"),
    "huge int": ([[1, 2, 3, 4, 5, 10**400]], "larger than 1e15"),
    "endless outline": ([[0, 0, 10, 9] * 550_000], "outline"),
    "no size": ({"counts": [120]}, '"size"'),
    "size of texts": ({"size": ["10", "12"], "counts": [120]}, '"size"'),
    "other size": ({"size": [12, 10], "counts": [120]}, "its RLE is 10x12, the image 12x10"),
    "no counts": ({"size": [10, 12]}, '"counts"'),
    "counts of fractions": ({"size": [10, 12], "counts": [100.5, 19.5]}, '"counts"'),
    "no runs": ({"size": [10, 12], "counts": []}, '"counts"'),
    "negative run": ({"size": [10, 12], "counts": [130, -10]}, "negative or longer"),
    "huge run": ({"size": [10, 12], "counts": [10**30]}, "negative or longer"),
    "too few": ({"size": [10, 12], "counts": [100, 19]}, "describes 119 pixels, the image has 120"),
    "too many": ({"size": [10, 12], "counts": [100, 21]}, "describes 121 pixels, the image has 120"),
    "empty text": ({"size": [10, 12], "counts": ""}, "empty"),
    "low characters": ({"size": [10, 12], "counts": "\x01\x02"}, "characters"),
    "high characters": ({"size": [10, 12], "counts": "zz"}, "characters"),
    "not ascii": ({"size": [10, 12], "counts": "äö"}, "characters"),
    "unfinished": ({"size": [10, 12], "counts": "PPPP"}, "end in the middle"),
    "long number": ({"size": [10, 12], "counts": "PPPPPPP0"}, "too large"),
    "compressed too few": ({"size": [10, 12], "counts": "5"}, "describes 5 pixels"),
    "compressed negative": ({"size": [10, 12], "counts": "O"}, "run of -1 pixels"),
}


def test_whole_numbers_as_floats_and_a_flat_polygon():
    counts = {"size": [10.0, 12.0], "counts": [100.0, 20.0]}
    assert (decode(counts, 10, 12) == decode({"size": [10, 12], "counts": [100, 20]}, 10, 12)).all()
    flat = [1.0, 2.0, 9, 2.0, 9, 8.0]
    assert decode(flat, 10, 12).any()
    assert (decode(flat, 10, 12) == decode([flat], 10, 12)).all()
    assert (decode(pack(flat), 10, 12) == decode([flat], 10, 12)).all()


@pytest.mark.parametrize(
    ("segmentation", "kept", "dropped"),
    [
        (None, None, 1),
        ([], None, 1),
        ([[]], None, 1),
        ([None, [1, 2]], None, 2),
        ([[1, 2, 3, 4, 5]], None, 1),
        ([[], [1, 2, 9, 2, 9, 8], [4, 4]], [[1, 2, 9, 2, 9, 8]], 2),
        ([1, 2, 3, 4], None, 1),
        ({"size": [10, 12], "counts": []}, None, 1),
        ([[1, 2, 9, 2, 9, 8, 7]], [[1, 2, 9, 2, 9, 8, 7]], 0),  # malformed, not empty
        ([["1", "2"]], [["1", "2"]], 0),
        ({"size": [10, 12], "counts": [100]}, {"size": [10, 12], "counts": [100]}, 0),
    ],
)
def test_pieces_that_cover_nothing(segmentation, kept, dropped):
    left, reasons = without_empty(segmentation)
    assert (left, len(reasons)) == (kept, dropped)


@pytest.mark.parametrize("case", BAD)
def test_malformed_segmentations(case):
    segmentation, reason = BAD[case]
    with pytest.raises(BadMask) as error:
        decode(segmentation, 10, 12)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


FUZZ = """
import random, sys
import numpy as np
from pycocotools import mask as mask_lib
from kseg.data.sources.coco_masks import BadMask, read_segmentation, to_mask, to_runs

random.seed(int(sys.argv[1]))
valid = mask_lib.encode(np.asfortranarray((np.random.default_rng(0).random((20, 30)) < 0.2).astype(np.uint8)))["counts"].decode()
numbers = [0, 1, -1, 5.5, 29.9, 30, 31, -4.1, 1e3, -1e5, 1e9, 1e12, -1e15, 2**31, 1e16, 1e300, 2**63, float("nan"), True, "1"]


def random_counts():
    kind = random.randrange(4)
    if kind == 0:
        return "".join(chr(random.randrange(48, 112)) for _ in range(random.randrange(200)))
    if kind == 1:
        return "".join(chr(random.randrange(0, 300)) for _ in range(random.randrange(20)))
    if kind == 2:
        text = list(valid)
        for _ in range(random.randrange(1, 4)):
            text[random.randrange(len(text))] = chr(random.randrange(48, 112))
        return "".join(text)[: random.choice([None, None, -1, -3])]
    return [random.choice([0, 1, 5, 100, 300, 600, -1, 2**32, 2**64]) for _ in range(random.randrange(6))]


good = bad = 0
for _ in range(8000):
    if random.random() < 0.5:
        segmentation = {"size": [20, 30], "counts": random_counts()}
    else:
        few = random.sample(numbers, random.randrange(1, 6))
        segmentation = [[random.choice(few) for _ in range(random.choice([5, 6, 8, 20]))] for _ in range(random.randrange(1, 4))]
    try:
        mask = to_mask(to_runs(read_segmentation(segmentation, 20, 30), 20, 30), 20, 30)
    except BadMask:
        bad += 1
    else:
        assert mask.shape == (20, 30), segmentation
        good += 1
assert to_mask(to_runs(valid, 20, 30), 20, 30).sum() > 60  # The heap is still sound.
print(good, bad)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_segmentations_neither_crash_nor_hang(seed):
    """Runs in another process, which a crash would end."""
    run = subprocess.run([sys.executable, "-c", FUZZ, str(seed)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    good, bad = map(int, run.stdout.split())
    assert good > 500
    assert bad > 500
