"""One process on eight devices. tests/runtime/test_distribution.py runs this file with eight CPU devices of XLA."""

import csv
import json
import re
from functools import partial

import jax
import keras
import numpy as np
import pytest
import tiny_model  # noqa: F401  (registers it)
from keras import ops

from kseg import evaluate, train
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.inference.picture_predictor import PicturePredictor
from kseg.inference.predictor import Predictor
from kseg.losses import CrossEntropy, build_loss
from kseg.metrics.confusion_matrix import ConfusionMatrix, confusion_matrices
from kseg.models.layers import BatchNormalization
from kseg.models.saving import load_model
from kseg.runtime.distribution import data_parallel, shard
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

LOSSES = ["ce", "focal", "ohem", "dice", "dice(per_image=True)", "jaccard", "tversky", "lovasz", "ce+boundary"]


def flags(data_dir, run_dir, *more):
    return [
        "kseg.train", "--dataset=coco", f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--image_size=32x48", "--batch_size=8",
        "--epochs=3", "--workers=0", "--model=test_tiny", "--backbone=test_tiny", "--noreport", *more,
    ]  # fmt: skip


def test_there_are_eight():
    assert len(jax.devices()) == 8


@pytest.fixture(scope="module")
def runs(tiny_coco, tmp_path_factory):
    """The same run on one device and on all."""
    folder = tmp_path_factory.mktemp("runs")
    for distribution in ("none", "data_parallel"):
        train.main(flags(tiny_coco, folder / distribution, f"--distribution={distribution}"))
    return RunDir(folder / "none"), RunDir(folder / "data_parallel")


def test_losses_are_those_of_one_device(runs):
    one, many = ([*csv.DictReader(run.metrics.read_text().splitlines())] for run in runs)
    for name in ("loss", "val_loss", "mean_iou", "val_mean_iou"):
        np.testing.assert_allclose([float(row[name]) for row in many], [float(row[name]) for row in one], rtol=1e-5)
    assert len(one) == len(many) == 3
    assert float(one[0]["loss"]) != float(one[1]["loss"])
    assert "(8 devices)" in json.loads(runs[1].environment.read_text())["devices"]


def test_equal_weights_give_equal_counts(runs, tiny_coco, tmp_path):
    """Counts and predictions of every image are equal, although the last batch is not full and sizes differ."""
    _, run = runs
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "train")
    found = []
    for distribution in ("none", "data_parallel"):
        with data_parallel(distribution):
            predictor = Predictor(load_model(run.model), dataset, image_size=(32, 48), batch_size=8)
            found.append([*predictor(range(9))])
    for (matrix, prediction), (expected, expected_prediction) in zip(*found, strict=True):
        np.testing.assert_array_equal(matrix, expected)
        np.testing.assert_array_equal(prediction, expected_prediction)
    assert len(found[0]) == 9

    pictures = [dataset.load(index).image for index in range(9)]
    for distribution in ("none", "data_parallel"):
        with data_parallel(distribution):
            pictured = PicturePredictor(load_model(run.model), dataset.class_names, (32, 48), batch_size=8)
            for prediction, (_, expected) in zip(pictured.predict(pictures, confidence=True), found[0], strict=True):
                np.testing.assert_array_equal(prediction.labels, expected)
            np.testing.assert_array_equal(pictured.predict_one(pictures[0]).labels, found[0][0][1])

    scores = []
    for distribution in ("none", "data_parallel"):
        file = tmp_path / f"{distribution}.json"
        evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--distribution={distribution}", f"--output={file}"])
        scores.append(json.loads(file.read_text()))
    assert scores[0] == scores[1] == json.loads(run.evaluation.read_text())

    averaged = []
    for distribution in ("none", "data_parallel"):
        flags = [
            "--tta=hflip",
            "--calibration",
            "--boundary",
            "--workers=0",
            f"--output={file}",
            f"--distribution={distribution}",
        ]
        evaluate.main(["kseg.evaluate", f"--model={run.path}", *flags])
        averaged.append(json.loads(file.read_text()))
    assert averaged[0]["confusion_matrix"] == averaged[1]["confusion_matrix"] != scores[0]["confusion_matrix"]
    assert averaged[0]["boundary"] == averaged[1]["boundary"]
    assert averaged[0]["calibration"]["pixels"] == averaged[1]["calibration"]["pixels"]


def test_batch_norm_and_dropout_see_the_whole_batch(rng):
    """The same statistics, and the same random numbers, as on one device."""
    x = rng.normal(3.0, 2.0, (16, 4, 4, 5)).astype("float32") * np.arange(1, 17, dtype="float32")[:, None, None, None]
    found = []
    for distribution in ("none", "data_parallel"):
        with data_parallel(distribution):
            norm, dropout = BatchNormalization(momentum=0.9), keras.layers.Dropout(0.5, seed=3)
            norm.build(x.shape)
            weights, statistics = ([v.value for v in group] for group in (norm.trainable_variables, norm.non_trainable_variables))
            y, state = jax.jit(partial(norm.stateless_call, training=True))(weights, statistics, *shard([x]))
            dropped = dropout(*shard([x]), training=True)
            found.append([np.asarray(value) for value in (y, *state, dropped)])
    y, mean, _, dropped = found[1]
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    assert 0.4 < (dropped == 0).mean() < 0.6
    np.testing.assert_array_equal(dropped, found[0][3])
    for ours, theirs in zip(found[1][:3], found[0][:3], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_metric_and_the_loss_send_sums_not_images(rng):
    labels, logits = rng.integers(0, 5, (8, 32, 32)).astype("uint8"), rng.normal(size=(8, 32, 32, 5)).astype("float32")

    def step(labels, logits):
        counts = ops.sum(confusion_matrices(labels, ops.argmax(logits, axis=-1), 5), axis=0)
        return counts, CrossEntropy()(labels, logits)

    with data_parallel("data_parallel"):
        batch = shard([labels, logits])
        assert batch[0].dtype == "uint8" and {part.data.shape for part in batch[0].addressable_shards} == {(1, 32, 32)}
        compiled = jax.jit(step).lower(*batch).compile()
        sent = set(re.findall(r"(all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\(", compiled.as_text()))
        counts, loss = compiled(*batch)
    assert sent == {"all-reduce"}
    metric = ConfusionMatrix(5)
    metric.update_state(labels, logits)
    np.testing.assert_array_equal(counts, metric.confusion_matrix())
    np.testing.assert_allclose(loss, CrossEntropy()(labels, logits), rtol=1e-6)


def test_every_loss_is_that_of_one_device(rng):
    """Also losses that sort pixels, use neighbouring pixels, or compute each image apart."""
    labels, logits = rng.integers(0, 4, (8, 16, 16)).astype("uint8"), rng.normal(size=(8, 16, 16, 4)).astype("float32")
    labels[3] = 255
    losses = {name: build_loss(name, class_weights=[1.0, 2.0, 0.5, 1.0]) for name in LOSSES}

    @jax.jit
    def values(labels, logits):
        return {name: loss(labels, logits) for name, loss in losses.items()}

    expected = values(labels, logits)
    with data_parallel("data_parallel"):
        found = values(*shard([labels, logits]))
    for name in LOSSES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


def test_a_batch_that_cannot_be_divided(tiny_coco, tmp_path):
    with pytest.raises(KsegError, match=r"--batch_size=9: cannot be divided evenly among 8 devices; use 8 or 16"):
        train.main(flags(tiny_coco, tmp_path / "run", "--distribution=data_parallel", "--batch_size=9"))
    assert not (tmp_path / "run").exists()
