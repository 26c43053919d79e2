"""Useless runs, and what kseg says about them."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from tiny_model import flags

from kseg import train
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.loading.pipeline import train_batches
from kseg.data.loading.samples import batch_names
from kseg.metrics.confusion_matrix import UnlabelledBatches
from kseg.runtime.run_dir import RunDir
from kseg.training.diagnostics import StopOnNonFinite, WarnOnPlateau
from kseg.training.progress import TrainState
from kseg.utils.errors import KsegError


def test_a_run_that_diverges(tiny_coco, tmp_path, capsys):
    run = RunDir(tmp_path / "run")
    with pytest.raises(KsegError, match=r"the loss is (nan|inf) at step \d of epoch 1.*lower --learning_rate.*nonfinite.json"):
        train.main(flags(tiny_coco, run.path, "--learning_rate=1e30", "--schedule=constant"))
    content = json.loads(run.nonfinite.read_text())
    assert content["epoch"] == 1
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "train")
    assert content["images"] == batch_names(dataset, 3, 21, 0, content["step"] - 1)
    assert not run.best.exists()
    assert "val_loss" not in capsys.readouterr().out  # it was not validated either


def test_a_loss_that_is_no_number_ends_the_epoch_early(tmp_path):
    """Step 38 of 200 has a NaN: the run ends a few steps later, and names the images of that step and the one before."""
    images = np.ones((200, 4), "float32")
    images[37, 0] = np.nan
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    seen = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    file = tmp_path / "nonfinite.json"
    state = TrainState(steps=200)
    stop = StopOnNonFinite(state, file, lambda epoch, step: [f"image {step} of epoch {epoch}"], every=10)
    with pytest.raises(KsegError, match="the loss is nan at step 38 of epoch 1"):
        model.fit(images, np.zeros((200, 1)), batch_size=1, shuffle=False, verbose=0, callbacks=[state, count, stop])
    assert seen[-1] == 39
    assert json.loads(file.read_text()) == {
        "epoch": 1,
        "step": 38,
        "loss": "nan",
        "images": ["image 37 of epoch 0"],
        "images_of_the_step_before": ["image 36 of epoch 0"],
    }


def test_batch_names_are_those_of_the_pipeline(tiny_coco):
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "train")
    by_name = {dataset.name(index): dataset.load(index) for index in range(len(dataset))}
    batches, steps = train_batches(dataset, image_size=(48, 64), batch_size=2, augment="none", seed=5, first_epoch=1, epochs=3)
    assert steps == 4
    for number, (images, _) in enumerate(batches.as_numpy_iterator()):
        names = batch_names(dataset, 2, 5, 1 + number // steps, number % steps)
        for image, name in zip(images, names, strict=True):
            if by_name[name].image.shape == (48, 64, 3):  # the others are resized
                np.testing.assert_array_equal(image, by_name[name].image)


@pytest.fixture
def sparse_coco(tiny_coco, tmp_path):
    """The tiny data set with one unlabelled training picture and a category that never occurs."""
    shutil.copytree(tiny_coco, tmp_path / "data")
    for split in ("train", "val"):
        file = tmp_path / f"data/annotations/{split}.json"
        content = json.loads(file.read_text())
        content["categories"].append({"id": 40, "name": "violet"})
        if split == "train":
            content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 3]
        file.write_text(json.dumps(content))
    return tmp_path / "data"


def test_labels_that_teach_nothing(sparse_coco, tmp_path, capsys):
    run = RunDir(tmp_path / "run")
    train.main(flags(sparse_coco, run.path, "--nobackground", "--batch_size=1"))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings[:2] == [
        "warning: split train: 1 of 9 images have not one labelled pixel and teach nothing: '002.png'",
        "warning: split train: a class that never occurs in its labels and cannot be learnt: 'violet'",
    ]
    assert [line.partition(" batches")[0] for line in warnings[2:]] == ["warning: epoch 1: 1 of 9", "warning: epoch 2: 1 of 9"]
    rows = list(csv.DictReader(run.metrics.read_text().splitlines()))
    assert len(rows) == 2 and not [name for name in rows[0] if "unlabelled" in name]


def test_a_split_without_a_labelled_pixel(sparse_coco, tmp_path):
    with pytest.raises(KsegError, match="every pixel of all 9 images is ignored"):
        train.main(flags(sparse_coco, tmp_path / "run", "--nobackground", "--ignore_categories=red,green,blue"))
    assert not (tmp_path / "run").exists()


def test_unlabelled_batches_are_counted():
    metric = UnlabelledBatches(ignore_index=7)
    for label in ([[7, 7], [7, 7]], [[7, 0], [7, 7]], [[7, 7], [7, 7]]):
        metric.update_state(np.array([label], "uint8"), np.zeros((1, 2, 2, 3), "float32"))
    assert float(metric.result()) == 2
    assert UnlabelledBatches.from_config(metric.get_config()).ignore_index == 7


def test_a_loss_that_does_not_move(tiny_coco, tmp_path, capsys):
    train.main(flags(tiny_coco, tmp_path / "still", "--learning_rate=1e-12", "--epochs=4"))
    assert capsys.readouterr().err.count("the loss has not moved in 3 epochs") == 1


def test_a_still_loss_is_remembered_by_a_resumed_run(capsys):
    before, after = WarnOnPlateau(epochs=2), WarnOnPlateau(epochs=2)
    before.on_epoch_end(0, {"loss": 1.0})
    after.set_state(json.loads(json.dumps(before.get_state())))
    after.on_epoch_end(1, {"loss": 1.001})
    assert "has not moved in 2 epochs (1.0000 to 1.0010)" in capsys.readouterr().err
