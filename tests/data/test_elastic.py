import json

import albumentations as A
import numpy as np
import pytest
from PIL import Image

from kseg.data.augmentation.elastic import ElasticTransform


@pytest.fixture(scope="module")
def pictures(shared_data):
    """Two real images with a label that is their green channel in four steps: borders everywhere."""
    folder = shared_data / "camvid"
    names = [image["file_name"] for image in json.loads((folder / "annotations/val.json").read_text())["images"][:2]]
    return [np.array(Image.open(folder / "images/val" / name).convert("RGB")) for name in names]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 300},
        {"alpha": 1000, "same_dxdy": True},
        {"alpha": 100, "sigma": 20, "noise_distribution": "gaussian"},
        {"alpha": 50, "sigma": 6},
        {"alpha": 50, "approximate": True},
    ],
    ids=str,
)
def test_equal_to_albumentations_to_a_grey_level(pictures, options):
    for image in pictures:
        label = image[..., 1] // 64
        made = []
        for kind in (A.ElasticTransform, ElasticTransform):
            compose = A.Compose([kind(p=1, fill_mask=255, **options)])
            compose.set_random_seed(3)
            made.append(compose(image=image, mask=label))
            made[-1]["next"] = compose.transforms[0].random_generator.integers(2**31)  # as many random numbers were drawn
        assert np.abs(made[0]["image"].astype(int) - made[1]["image"]).max() <= 1
        assert (made[0]["mask"] != made[1]["mask"]).mean() < 1e-4
        assert made[0]["next"] == made[1]["next"]
        if options:
            assert (made[0]["image"] != image).mean() > 0.1  # it did something


def test_noise_is_where_the_difference_shows(rng):
    """Neighbours that differ by all of 0..255: still a grey level."""
    image = rng.choice(np.array([0, 255], "uint8"), (256, 300, 3))
    made = []
    for kind in (A.ElasticTransform, ElasticTransform):
        compose = A.Compose([kind(alpha=80, p=1)])
        compose.set_random_seed(1)
        made.append(compose(image=image)["image"].astype(int))
    difference = np.abs(made[0] - made[1])
    assert (difference > 1).mean() < 1e-3
    assert difference.max() <= 9  # a step of 1/32 pixel, OpenCV's own
