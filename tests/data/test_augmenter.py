import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kseg.data.augmentation.augmenter import Augmenter, sample_seed
from kseg.data.augmentation.presets import PRESETS
from kseg.utils.errors import KsegError

FLIPS = (slice(None), slice(None, None, -1))


@pytest.fixture
def sample(rng):
    """A smooth image, and a label computed from its red channel, so that the two can be compared."""
    ramp = np.linspace(0, 255, 96)
    image = np.stack([np.tile(ramp, (80, 1)), np.tile(np.linspace(0, 255, 80)[:, None], (1, 96)), np.full((80, 96), 128)], -1)
    image = image.astype("uint8")
    return image, np.where(image[..., 0] > 127, 3, 1).astype("uint8")


@pytest.mark.parametrize("preset", list(PRESETS))
def test_same_seed_same_bytes_from_many_threads(sample, preset):
    augment = Augmenter(preset, (64, 72))
    alone = [augment(*sample, seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: augment(*sample, seed), [*range(24)] * 3))
    for i, (image, label) in enumerate(together):
        np.testing.assert_array_equal(image, alone[i % 24][0])
        np.testing.assert_array_equal(label, alone[i % 24][1])
    if preset not in ("none", "resize256"):
        assert len({image.tobytes() for image, _ in alone}) > 12


@pytest.mark.parametrize("preset", list(PRESETS))
def test_labels_stay_labels_and_follow_the_image(sample, preset):
    augment = Augmenter(preset, (64, 72))
    for seed in range(12):
        image, label = augment(*sample, seed)
        assert image.shape == (64, 72, 3)
        assert label.shape == (64, 72)
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(label)) <= {1, 3, 255}
        if preset == "aug":  # geometry moves both: away from the edge between the classes, red still decides the label
            red = image[..., 0].astype(int)
            sure = (np.abs(red - 127) > 40) & (label != 255) & (image.sum(-1) > 0)
            agree = (label[sure] == np.where(red[sure] > 127, 3, 1)).mean()
            assert agree > 0.98


def test_what_comes_from_outside_is_ignored():
    image, label = np.full((60, 60, 3), 200, "uint8"), np.ones((60, 60), "uint8")
    augment = Augmenter("aug", (60, 60))
    seen = [augment(image, label, seed) for seed in range(40)]
    outside = [(i, lb) for i, lb in seen if (lb == 255).any()]
    assert outside  # optical distortion pulled the border in at least once
    for picture, lb in outside:
        assert picture[lb == 255].mean() < picture[lb == 1].mean()


def test_transforms_decide_independently(rng):
    """Every combination of two flips occurs about equally often, not only both or none."""
    image, label = rng.integers(0, 256, (32, 32, 3), dtype="uint8"), np.zeros((32, 32), "uint8")
    augment = Augmenter("HorizontalFlip,VerticalFlip", (32, 32))
    seen = Counter(augment(image, label, sample_seed(0, 0, i))[0].tobytes() for i in range(200))
    assert set(seen) == {image[rows][:, columns].tobytes() for rows in FLIPS for columns in FLIPS}
    assert min(seen.values()) > 25


def test_labels_are_resized_at_half_pixel_centres():
    """Labels are sampled at half-pixel centres, as the resize of the logits is."""
    label = np.arange(64, dtype="uint8").reshape(8, 8)
    _, small = Augmenter("none", (32, 32))(np.zeros((8, 8, 3), "uint8"), label)
    np.testing.assert_array_equal(small, label.repeat(4, 0).repeat(4, 1))


def test_unknown_preset_suggests_similar_names():
    with pytest.raises(KsegError, match="unknown augmentation 'lihgt'; did you mean light"):
        Augmenter("lihgt", (64, 64))


def test_sample_seeds_differ():
    seeds = {sample_seed(s, e, i) for s in range(4) for e in range(10) for i in range(50)}
    assert len(seeds) > 1990  # of 2000


NO_LOOKUP = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "albumentations":
            print(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))

sys.meta_path.insert(0, Finder())
import kseg.data.augmentation.presets
"""


@pytest.mark.slow
def test_albumentations_does_not_look_for_newer_versions():
    """Its import would do so on the network unless the variable is set before."""
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", NO_LOOKUP], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
