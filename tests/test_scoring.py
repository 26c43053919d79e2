"""Scoring at the labels' own size against a plain computation, image by image."""

import json

import keras
import numpy as np
import pytest
import torch

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augment import Augmenter
from kseg.metrics import scores
from kseg.scoring import Evaluation, Predictor, write_evaluation


@pytest.fixture(scope="module")
def data(tiny_coco):
    return build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")


@pytest.fixture(scope="module")
def model():
    """A little network that any image goes through in an instant; random, so that its predictions vary."""
    keras.utils.set_random_seed(3)
    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 64)(images)
    x = keras.layers.Conv2D(8, 5, padding="same", activation="relu")(x)
    return keras.Model(images, keras.layers.Conv2D(4, 1)(x))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_evaluation_equals_a_plain_loop(data, model, batch_size):
    predictor = Predictor(model, data, image_size=(32, 40), batch_size=batch_size)
    evaluation = predictor.evaluate(progress=False)
    assert evaluation.matrices.shape == (5, 4, 4)
    assert evaluation.matrices.dtype == "int64"
    resize = Augmenter("none", (32, 40))
    for i in range(5):
        sample = data.load(i)
        logits = keras.ops.convert_to_numpy(model(resize(sample.image, sample.label)[0][None].astype("float32")))
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(logits.transpose(0, 3, 1, 2)), size=sample.label.shape, mode="bilinear", align_corners=False
        )
        expected = np.zeros((4, 4), "int64")
        np.add.at(expected, (sample.label, resized[0].argmax(0).numpy()), 1)
        assert evaluation.matrices[i].sum() == sample.label.size  # every pixel, and none of the padding
        assert np.abs(evaluation.matrices[i] - expected).sum() <= 4  # a pixel or two may sit on a tie
    assert evaluation.scores.mean_iou == scores(evaluation.matrices.sum(0)).mean_iou


def test_chosen_images_are_predicted_as_they_were_scored(data, model):
    predictor = Predictor(model, data, image_size=(32, 40), batch_size=2)
    everything = list(predictor(range(5)))
    for index, (matrix, prediction) in zip([3, 0, 4], predictor([3, 0, 4]), strict=True):
        assert prediction.shape == data.size(index)
        np.testing.assert_array_equal(prediction, everything[index][1])
        np.testing.assert_array_equal(matrix, everything[index][0])


def test_ranking_and_summary():
    right, half, nothing = np.diag([5, 5, 0]), np.array([[5, 5, 0], [0, 0, 0], [0, 0, 0]]), np.zeros((3, 3), "int64")
    evaluation = Evaluation(("a", "b", "c"), np.stack([half, nothing, right]))
    np.testing.assert_array_equal(evaluation.ranking(), [2, 0])  # the image without counted pixels has no rank
    mean_iou = (10 / 15 + 5 / 10) / 2
    assert evaluation.summary("val") == f"mIoU {mean_iou:.4f} (full val set, 3 images, 3 classes, 1 of them absent and left out)"
    assert [line.split()[:2] for line in evaluation.table().splitlines()[1:4]] == [
        ["a", "0.6667"],
        ["b", "0.5000"],
        ["c", "absent"],
    ]


def test_evaluation_file(tmp_path):
    evaluation = Evaluation(("a", "b"), np.array([[[3, 0], [0, 0]]]))
    write_evaluation(tmp_path / "e.json", evaluation, "val")
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["confusion_matrix"] == [[3, 0], [0, 0]]
    assert content["iou"] == [1.0, None]
    assert content["mean_iou"] == 1.0
