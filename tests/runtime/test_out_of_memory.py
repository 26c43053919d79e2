"""Memory that really runs out: a layer allocates a petabyte for batches of more than a given number of images."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from tiny_model import flags

from kseg import train
from kseg.config import DataConfig, TrainConfig
from kseg.data import build_dataset
from kseg.inference.picture_predictor import PicturePredictor
from kseg.inference.predictor import Predictor
from kseg.inference.sliding_window import Windows
from kseg.inference.tta import mean_probabilities
from kseg.models.blocks import head
from kseg.models.registry import MODELS
from kseg.runtime.out_of_memory import explain_out_of_memory, is_out_of_memory
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.backends("jax", "torch")  # TensorFlow waits ten seconds before it says that memory ran out


class Hungry(keras.layers.Layer):
    """Returns its input. For a batch of more than `most` images it allocates a matrix that no machine has room for."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def call(self, x):
        if not isinstance(x.shape[0], int) or x.shape[0] <= self.most:
            return x
        long = ops.mean(x) + ops.zeros((2**24, 2))
        petabyte = ops.matmul(long, ops.transpose(long))
        # Sorting needs all of it at once.
        return x + 0 * ops.stop_gradient(ops.sum(ops.sort(petabyte, axis=0)[:3]))


def network(most):
    keras.utils.set_random_seed(3)
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 5, padding="same", activation="relu")(keras.layers.Rescaling(1 / 64)(images))
    return keras.Model(images, keras.layers.Conv2D(4, 1)(Hungry(most)(x)))


@pytest.fixture(scope="module")
def data(tiny_coco):
    return build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "val")


@pytest.fixture(scope="module")
def plain(data):
    """The predictions of one image at a time."""
    return [found.prediction for found in Predictor(network(2), data, image_size=(32, 40), batch_size=1).predict(range(5))]


def test_batches_are_halved_and_every_image_is_predicted_once(data, plain, capsys):
    predictor = Predictor(network(2), data, image_size=(32, 40), batch_size=11)
    for _ in range(2):
        for found, expected in zip(predictor.predict(range(5)), plain, strict=True):
            np.testing.assert_array_equal(found.prediction, expected)
    assert [line for line in capsys.readouterr().err.splitlines() if "memory" in line] == [
        "memory ran out with 11 images per step; continuing with 5",
        "memory ran out with 5 images per step; continuing with 2",
    ]


def test_so_are_batches_of_arrays_and_of_windows(data, plain, capsys):
    arrays = [data.load(index).image for index in range(5)]
    predictor = PicturePredictor(network(2), data.class_names, (32, 40), batch_size=4)
    for found, expected in zip(predictor.predict(iter(arrays)), plain, strict=True):
        np.testing.assert_array_equal(found.labels, expected)
    assert "with 4 images per step; continuing with 2" in capsys.readouterr().err

    averaged = functools.partial(mean_probabilities, size=(32, 40))
    options = {"image_size": (32, 40), "probabilities": True, "windows": Windows((32, 40))}
    few = Predictor(averaged([network(2)]), data, batch_size=2, **options)
    many = Predictor(averaged([network(2)]), data, batch_size=4, **options)
    for (matrix, _), (expected, _) in zip(many([0, 1]), few([0, 1]), strict=True):
        np.testing.assert_array_equal(matrix, expected)
    assert "with 4 windows per step; continuing with 2" in capsys.readouterr().err
    array = PicturePredictor(network(2), data.class_names, (32, 40), window=(32, 40), batch_size=4).predict_one(arrays[0])
    np.testing.assert_array_equal(array.labels, next(few.predict([0])).prediction)


def test_one_image_that_is_too_much_is_one_line(data):
    predictor = Predictor(network(0), data, image_size=(32, 40), batch_size=2)
    with pytest.raises(
        KsegError, match="memory ran out with 1 image of 32x40 per step, for an image of 48x64; pass a smaller --image_size"
    ):
        next(predictor.predict([0]))


def hungry(features, *, num_classes):
    """A decoder that can train on two images at most."""
    return head(Hungry(2)(features["c1"]), num_classes)


MODELS.add("test_hungry", hungry, backbone="test_conv", output_stride=32, levels=lambda: ("c1",), align_corners=lambda: True)


def test_training_names_a_batch_to_try(tiny_coco, tmp_path):
    with pytest.raises(KsegError) as error:
        train.main(flags(tiny_coco, tmp_path / "run", "--model=test_hungry", "--accumulate_steps=2"))
    assert str(error.value).startswith(
        "memory ran out while training with --batch_size=3, --image_size=48x64; try --batch_size=1 (with --accumulate_steps=6 "
    )


def test_other_errors_stay_what_they_are(data):
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("no such layer"))
    assert not is_out_of_memory(KsegError("Out of memory"))
    with pytest.raises(ValueError, match="other"), explain_out_of_memory(TrainConfig()):
        raise ValueError("other")
    predictor = Predictor(network(2), data, image_size=(32, 40), batch_size=2)
    with pytest.raises(Exception, match="IndexError"):
        list(predictor.predict([7]))
