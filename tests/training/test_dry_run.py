"""--overfit_batches and --dry_run: short runs that try out a long one."""

import json
import re
import tempfile

import keras
import numpy as np
import pytest
from tiny_model import flags

from kseg import train
from kseg.config import DataConfig
from kseg.data import build_dataset
from kseg.data.loading.samples import batch_names
from kseg.runtime.run_dir import RunDir
from kseg.training.run_data import overfit_sets


def test_overfitting_uses_the_images_of_the_first_batches(tiny_coco):
    dataset = build_dataset(DataConfig(dataset="coco", data_dir=str(tiny_coco)), "train")
    train_set, val_set = overfit_sets(dataset, 2, 2, seed=21)
    wanted = batch_names(dataset, 2, 21, 0, 0) + batch_names(dataset, 2, 21, 0, 1)
    assert [val_set.name(index) for index in range(len(val_set))] == wanted
    assert [train_set.name(index) for index in range(len(train_set))] == wanted * 2  # as long as before, but for the odd one
    everything, _ = overfit_sets(dataset, 99, 2, seed=21)
    assert len(everything) == 8


@pytest.mark.slow
def test_a_model_can_learn_a_batch(tiny_coco, tmp_path, capsys):
    run = RunDir(tmp_path / "run")
    more = ("--overfit_batches=1", "--epochs=24", "--learning_rate=0.03", "--augment=aug")
    train.main(flags(tiny_coco, run.path, *more))
    evaluation = json.loads(run.evaluation.read_text())
    assert evaluation["split"] == "overfitted train" and evaluation["images"] == 3
    assert evaluation["mean_iou"] > 0.85  # a model of half the pictures' size blurs edges
    out, err = capsys.readouterr()
    assert "(full overfitted train set, 3 images, 4 classes; 95% interval " in out.splitlines()[-1]
    assert "warning" not in err
    assert json.loads(run.config.read_text())["augment"] == "none"


@pytest.mark.slow
def test_a_dry_run(tiny_coco, tmp_path, monkeypatch, capsys):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    more = ("--dry_run", "--epochs=90", "--report", "--tensorboard", "--workers=1", "--wandb=mine")
    monkeypatch.setattr("kseg.training.loggers._installed", lambda name: True)  # wandb is given, and not started
    train.main(flags(tiny_coco, tmp_path / "run", *more))
    out = capsys.readouterr().out
    assert not [*(tmp_path / "temporary").iterdir()] and not (tmp_path / "run").exists()
    assert f"run     90 epochs of 3 steps, batch 3, into {tmp_path / 'run'}\n" in out
    assert "data    9 training and 5 validation images, 4 classes\n" in out
    assert re.match(r"dry run: one batch went through everything, \d+ s; nothing was kept\n", out.splitlines(True)[-1])
    (memory,) = re.findall("^memory  (.*)$", out, re.M)
    each, _, total = memory.partition(" with batch 3")[0].partition(": ")
    sizes = {name: _bytes(size) for name, _, size in (part.partition(" ") for part in each.split(", "))}
    trainable = 3 * 3 * 3 * 16 + 16 + 3 * 3 * 16 * 24 + 2 * 24 + 24 * 4 + 4
    np.testing.assert_allclose(sizes["gradients"], trainable * 4, rtol=0.005)
    np.testing.assert_allclose(sizes["parameters"], (trainable + 2 * 24) * 4, rtol=0.005)  # batch norm's statistics
    np.testing.assert_allclose(sizes["optimizer"], 2 * trainable * 4, rtol=0.005)
    if keras.backend.backend() == "jax":
        assert sizes["activations"] > 3 * 24 * 32 * (16 + 24) * 4  # the outputs of both convolutions
    else:
        assert memory.endswith(", without activations, which only JAX reports")
    np.testing.assert_allclose(_bytes(total), sum(sizes.values()), rtol=0.01)
    assert re.search(f"^host    this process {SIZE}, 1 loading processes {SIZE}$", out, re.M)


SIZE = r"([\d.]+ [GMk]?B)"


def _bytes(text):
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
