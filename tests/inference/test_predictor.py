"""Scoring at the labels' own size against a plain computation, image by image."""

import json

import keras
import numpy as np
import pytest
import torch

from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.augmentation.augmenter import Augmenter
from kseg.inference.predictor import Predictor
from kseg.inference.sliding_window import Windows
from kseg.inference.tta import mean_probabilities, views
from kseg.metrics.calibration import Calibration
from kseg.metrics.evaluation import Evaluation
from kseg.metrics.evaluation_files import write_evaluation
from kseg.metrics.scores import scores

pytestmark = pytest.mark.backends


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


def probabilities_of(model, images):
    return keras.ops.convert_to_numpy(keras.ops.softmax(model(np.asarray(images, "float32"))))


def test_sliding_windows_equal_a_plain_loop(data, model):
    """Windows of 40x32 on pictures of 48x64 and 50x40, 4 a call, although there are 2 x 2 or 2 x 3 of them, blended by hand."""
    window, (down, across) = (40, 32), (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (40, 32))
    averaged = mean_probabilities([model], window)
    predictor = Predictor(
        averaged,
        data,
        image_size=window,
        batch_size=4,
        probabilities=True,
        windows=Windows(window, 0.25),
        confidence=True,
    )
    starts = {(48, 64): ([0, 8], [0, 16, 32]), (50, 40): ([0, 10], [0, 8])}
    for index, found in enumerate(predictor.predict(range(5))):
        sample = data.load(index)
        rows, columns = starts[sample.label.shape]
        total, weights = np.zeros((*sample.label.shape, 4)), np.zeros((*sample.label.shape, 1))
        for top in rows:
            for left in columns:
                place = slice(top, top + 40), slice(left, left + 32)
                weight = (down[:, None] * across)[..., None]
                total[place] += weight * probabilities_of(model, sample.image[place][None])[0]
                weights[place] += weight
        np.testing.assert_array_equal(found.label, sample.label)
        assert (found.prediction != total.argmax(-1)).sum() <= 2  # ties
        np.testing.assert_allclose(found.confidence, (total / weights).max(-1), atol=1e-5)
        assert found.matrix.sum() == sample.label.size


def test_an_image_smaller_than_the_window_is_padded_with_black(data, model):
    predictor = Predictor(
        mean_probabilities([model], (96, 64)),
        data,
        image_size=(96, 64),
        batch_size=2,
        probabilities=True,
        windows=Windows((96, 64)),
    )
    for index, (matrix, prediction) in enumerate(predictor(range(2))):
        image = data.load(index).image
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, 96 - height), (0, 64 - width), (0, 0)))
        expected = probabilities_of(model, padded[None])[0].argmax(-1)[:height, :width]
        assert matrix.sum() == height * width
        assert (prediction != expected).sum() <= 2


def test_one_window_is_the_plain_prediction(data, model):
    """Without anything to average, the mean of probabilities ranks as logits do."""
    image = data.load(0).image[None, :, :48]
    np.testing.assert_allclose(
        mean_probabilities([model], (48, 48)).predict_on_batch(image), probabilities_of(model, image), atol=1e-6
    )


ROTATIONS = [lambda x, k=k: np.rot90(x, k, (1, 2)) for k in range(4)]


@pytest.mark.parametrize(
    ("tta", "applied", "undone"),
    [
        (["hflip"], [lambda x: x, lambda x: x[:, :, ::-1]], None),
        (["vflip"], [lambda x: x, lambda x: x[:, ::-1]], None),
        (["flips"], [lambda x: x, lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: x[:, ::-1, ::-1]], None),
        (["turns"], ROTATIONS, [ROTATIONS[-k % 4] for k in range(4)]),
        (
            ["turns", "hflip"],
            [*ROTATIONS, *(lambda x, f=f: f(x[:, :, ::-1]) for f in ROTATIONS)],
            [*(ROTATIONS[-k % 4] for k in range(4)), *(lambda x, k=k: ROTATIONS[-k % 4](x)[:, :, ::-1] for k in range(4))],
        ),
    ],
)
def test_flips_and_turns_are_averaged(model, rng, tta, applied, undone):
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    found = mean_probabilities([model], (32, 32), tta).predict_on_batch(images)
    seen = [back(probabilities_of(model, there(images))) for there, back in zip(applied, undone or applied, strict=True)]
    np.testing.assert_allclose(found, np.mean(seen, axis=0), atol=1e-5)
    assert np.abs(found - seen[0]).max() > 1e-3


def test_scales_are_averaged(model, rng):
    images = rng.integers(0, 256, (1, 48, 64, 3)).astype("float32")

    def resized(x, size):
        x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        return torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False).numpy().transpose(0, 2, 3, 1)

    sizes = [(48, 64), (36, 48), (60, 80)]
    seen = [resized(probabilities_of(model, resized(images, size)), (48, 64)) for size in sizes]
    found = mean_probabilities([model], (48, 64), ["scales"]).predict_on_batch(images)
    np.testing.assert_allclose(found, np.mean(seen, axis=0), atol=1e-4)
    assert len(views(["scales", "flips"], (48, 64))) == 12


def test_an_ensemble_is_the_mean_of_probabilities(data, model):
    other = keras.models.clone_model(model)  # of the same layer names, and other weights
    images = np.stack([data.load(index).image[:32, :40] for index in range(2)])
    found = mean_probabilities([model, other], (32, 40)).predict_on_batch(images)
    first, second = probabilities_of(model, images), probabilities_of(other, images)
    np.testing.assert_allclose(found, (first + second) / 2, atol=1e-6)
    assert np.abs(first - second).max() > 1e-3


def test_confidence_is_the_probability_at_the_labels_size(data, model):
    predictor = Predictor(model, data, image_size=(32, 40), batch_size=2, confidence=True)
    resize, counted = Augmenter("none", (32, 40)), Calibration()
    for index, found in enumerate(predictor.predict(range(5))):
        sample = data.load(index)
        logits = keras.ops.convert_to_numpy(model(resize(sample.image, sample.label)[0][None].astype("float32")))
        logits = torch.nn.functional.interpolate(
            torch.from_numpy(logits.transpose(0, 3, 1, 2)), size=sample.label.shape, mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(found.confidence, logits.softmax(1).amax(1)[0].numpy(), atol=1e-5)
        counted.add(found.confidence.ravel(), (found.prediction == sample.label).ravel())
    evaluation = predictor.evaluate(progress=False)
    assert evaluation.calibration.error() == counted.error()
    assert evaluation.calibration.pixels.sum() == evaluation.matrices.sum()


def test_ranking_and_summary():
    right, half, nothing = np.diag([5, 5, 0]), np.array([[5, 5, 0], [0, 0, 0], [0, 0, 0]]), np.zeros((3, 3), "int64")
    evaluation = Evaluation(("a", "b", "c"), np.stack([half, nothing, right]))
    np.testing.assert_array_equal(evaluation.ranking(), [2, 0])  # the image without counted pixels has no rank
    mean_iou = (10 / 15 + 5 / 10) / 2
    summary = (
        f"mIoU {mean_iou:.4f} (full val set, 3 images, 3 classes, 1 of them absent and left out; 95% interval 0.2500 to 1.0000)"
    )
    assert evaluation.summary("val") == summary
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
