"""Class weights: formulas, also on real data, and files."""

import json

import numpy as np
import pytest

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.inspection.class_weights import (
    check_setting,
    find_class_weights,
    inverse,
    median_frequency,
    pixel_counts,
    read_class_weights,
    sum_counts,
)
from kseg.utils.errors import KsegError

NAMES = ("road", "tree", "car")


def test_formulas_on_two_small_label_maps():
    labels = [np.array([[0, 0, 0, 1]]), np.array([[0, 2, 255, 255]])]
    counts = sum_counts(map(pixel_counts, labels), 4)
    assert counts.pixels.tolist() == [4, 1, 1, 0]
    assert counts.images.tolist() == [2, 1, 1, 0]
    assert counts.image_pixels.tolist() == [8, 4, 4, 0]
    assert median_frequency(counts).tolist() == [0.5, 1, 1, 0]  # frequencies 1/2, 1/4, 1/4; class 3 does not occur
    assert inverse(counts).tolist() == [6 / 12, 2, 2, 0]


def test_median_frequencies_of_camvid(shared_data):
    config = DataConfig(dataset="coco", data_dir=str(shared_data / "camvid"), background=False, ignore_categories=("unlabelled",))
    weights = find_class_weights("median_frequency", build_dataset(config, "train"))
    documented = [0.2793, 0.2017, 4.7865, 0.1490, 1.0000, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    np.testing.assert_allclose(weights, documented, atol=5e-5)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ([1, 2.5, 0], ""),
        ({"car": 0, "road": 1, "tree": 2.5}, ""),
        ({"class_weights": {"median_frequency": {"tree": 2.5, "road": 1, "car": 0}, "split": "train"}}, ""),
        ({"class_weights": {"inverse": {"tree": 2.5, "road": 1, "car": 0}}, "defects": []}, "#inverse"),
    ],
)
def test_files(tmp_path, content, key):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(content))
    assert read_class_weights(f"{path}{key}", NAMES) == [1, 2.5, 0]


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("{", "", "is not valid JSON"),
        ("[1, 2]", "", "has 2 weights; .* 3"),
        ("7", "", "is neither a list nor an object"),
        ('{"road": 1, "tree": 2, "bus": 1}', "", "has no weight for class 'car' of the training split"),
        ('{"road": 1, "tree": 2, "car": 1, "bus": 1}', "", "weighs 'bus'"),
        ('{"class_weights": {"inverse": {}}}', "", "no weights 'median_frequency'; choose inverse"),
        ("[1, 2, 3]", "#inverse", "leave out #inverse"),
        ("[1, -2, 3]", "", "the weight of 'tree' is -2"),
        ("[1, NaN, 3]", "", "the weight of 'tree' is nan"),
        ('[1, "2", 3]', "", "the weight of 'tree' is '2'"),
        ("[0, 0, 0]", "", "every weight is 0"),
    ],
)
def test_files_that_are_refused(tmp_path, text, key, says):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(KsegError, match=says):
        read_class_weights(f"{path}{key}", NAMES)


def test_a_setting_that_is_neither_name_nor_file():
    check_setting("none")
    with pytest.raises(KsegError, match="neither none, median_frequency, inverse nor "):
        check_setting("medianfrequency")
