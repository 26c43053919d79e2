"""A run directory with a small random network, for tests that need a run but no training."""

import json

import keras

from kseg.config import DataConfig, TrainConfig
from kseg.models.saving import save_model
from kseg.runtime.run_dir import RunDir

NAMES = ("background", "red", "green", "blue")
"""The classes of the fixture tiny_coco."""


def random_network(seed=3, classes=4):
    """Returns two convolutions, from images [B, H, W, 3] to logits [B, H, W, classes]."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 5, padding="same", activation="relu")(keras.layers.Rescaling(1 / 64)(images))
    return keras.Model(images, keras.layers.Conv2D(classes, 1)(x))


def random_run(path, data_dir):
    """Returns a RunDir at `path` of that network on a COCO data set, with inputs of 32x40 and batches of 2."""
    run = RunDir(path)
    data = DataConfig(dataset="coco", data_dir=str(data_dir))
    run.create(TrainConfig(data=data, image_size=(32, 40), batch_size=2), [])
    run.unlock()
    save_model(random_network(), run.model)
    run.evaluation.write_text(json.dumps({"class_names": NAMES}))
    return run
