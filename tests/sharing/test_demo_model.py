"""The model of kseg.demo: its label maps, and the models that it accepts."""

import base64
import io

import cv2
import keras
import numpy as np
import pytest
from PIL import Image
from small_model import strongest_channel

from kseg.config import DemoConfig
from kseg.inference.picture_predictor import PicturePredictor
from kseg.models.ops.resize import resize_bilinear
from kseg.models.saving import save_model
from kseg.sharing.demo_model import LONGEST, DemoModel, open_demo_model
from kseg.sharing.demo_server import describe
from kseg.utils.errors import KsegError

NAMES = ("background", "red", "green", "blue")


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture(scope="module")
def model():
    return strongest_channel()


def test_labels_are_those_of_the_resized_logits(model):
    picture = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype="uint8")
    for size in ((45, 70), (20, 90)):
        prediction = DemoModel(PicturePredictor(model, NAMES, size), "title").predict(picture)
        label = prediction.labels
        logits = model.predict_on_batch(cv2.resize(picture, size[::-1])[None])
        expected = np.asarray(resize_bilinear(np.asarray(logits), (45, 70), align_corners=False))[0].argmax(-1)
        assert (label == expected).mean() > 0.999  # a tie may fall either way
        assert len(np.unique(label)) == 4
        np.testing.assert_array_equal(prediction.image, picture)


def test_a_large_picture_is_made_smaller_to_be_shown(model):
    scene = np.full((60, 80, 3), 20, "uint8")
    scene[10:50, 5:25, 0] = 230
    picture = scene.repeat(40, 0).repeat(40, 1)
    answer = describe(DemoModel(PicturePredictor(model, NAMES, (60, 80)), "title"), picture)
    assert answer["size"] == [3200, 2400]
    label = decode(answer["label"])
    assert label.shape == decode(answer["image"]).shape[:2] == (LONGEST * 3 // 4, LONGEST)
    areas = {entry["index"]: entry["area"] for entry in answer["classes"]}
    assert sum(areas.values()) == pytest.approx(100)
    assert areas[1] == pytest.approx(100 * 800 / 4800, abs=0.7)
    assert answer["classes"][0]["index"] == 0


def test_models_that_cannot_be_shown(tmp_path):
    images = keras.Input((32, 48, 1))
    save_model(keras.Model(images, keras.layers.Conv2D(2, 1)(images)), tmp_path / "grey.keras")
    with pytest.raises(KsegError, match=r"grey.keras: is no segmentation model"):
        open_demo_model(DemoConfig(model=str(tmp_path / "grey.keras")))
    images = keras.Input((32, 48, 3))
    save_model(keras.Model(images, keras.layers.Conv2D(2, 1)(images)), tmp_path / "fixed.keras")
    with pytest.raises(KsegError, match=r"--image_size=64x64: .*fixed.keras takes images of 32x48 only"):
        open_demo_model(DemoConfig(model=str(tmp_path / "fixed.keras"), image_size="64"))
    opened = open_demo_model(DemoConfig(model=str(tmp_path / "fixed.keras")))
    assert (opened.image_size, opened.class_names, opened.example) == ((32, 48), ("class 0", "class 1"), None)
