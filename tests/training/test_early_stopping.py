"""Early stopping, and the choice of the best epoch."""

import csv
import json

import keras
import numpy as np
import pytest
from compiled_model import load_compiled
from tiny_model import flags

from kseg import train
from kseg.config import SelectionConfig, better
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.runtime.signals import StopRequest
from kseg.training.callbacks import EarlyStopping
from kseg.training.checkpoints import Checkpoint
from kseg.training.progress import TrainState
from kseg.utils.errors import KsegError


def test_a_run_that_gets_no_better_ends(tiny_coco, tmp_path, capsys):
    """The learning rate only rises, and lower counts as better: the first epoch is the best."""
    run = RunDir(tmp_path / "run")
    selection = ("--monitor=learning_rate", "--early_stopping=2", "--warmup_epochs=6")
    train.main(flags(tiny_coco, run.path, "--epochs=6", *selection))
    rows = list(csv.DictReader(run.metrics.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert "no better learning_rate since epoch 1: the run ends here\n" in capsys.readouterr().out
    assert int(load_compiled(run.best).optimizer.iterations.value) == 3
    assert int(load_compiled(run.checkpoints()[0]).optimizer.iterations.value) == 9


def test_a_monitor_that_is_no_column(tmp_path):
    checkpoint = _checkpoint(tmp_path, "val_men_iou", "max")
    with pytest.raises(KsegError, match=r"--monitor=val_men_iou: is no column of metrics.csv; did you mean .*val_mean_iou"):
        checkpoint.on_epoch_end(0, {"loss": 1.0, "val_mean_iou": 0.5})


def test_directions():
    assert better("val_mean_iou", "auto") == "max" and better("val_loss", "auto") == "min"
    assert better("val_mean_iou", "min") == "min" and better("iou_road", "max") == "max"
    with pytest.raises(KsegError, match=r"--monitor=val_mean_iuo: pass --monitor_mode=max or min .*did you mean val_mean_iou"):
        SelectionConfig(monitor="val_mean_iuo")
    for wrong in ({"early_stopping": 0}, {"monitor_mode": "up"}, {"monitor": ""}):
        with pytest.raises(KsegError, match=f"--{next(iter(wrong))}="):
            SelectionConfig(**wrong)


def _checkpoint(folder, monitor, mode):
    checkpoint = Checkpoint(RunDir(folder), TrainState(steps=1), StopRequest(), monitor=monitor, mode=mode)
    checkpoint.set_model(_model())
    return checkpoint


def _model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 2)])
def test_the_checkpoint_follows_the_mode(tmp_path, mode, best):
    checkpoint = _checkpoint(tmp_path, "score", mode)
    model = checkpoint.model
    checkpoint.set_params({"epochs": 4})
    for epoch, score in enumerate((float("nan"), 1.0, 3.0, 2.0)):
        model.set_weights([np.full((1, 1), epoch, "float32"), np.zeros(1, "float32")])
        checkpoint.train_state.on_epoch_end(epoch)
        checkpoint.on_epoch_end(epoch, {"score": score})
    assert checkpoint.best_epoch == best
    assert load_model(checkpoint.run.best).get_weights()[0] == best - 1


def _stops(stopping, scores, first=0):
    """Returns the epoch after which it ends the run, or None."""
    stopping.set_model(_model())
    stopping.on_train_begin()
    for epoch, score in enumerate(scores, first):
        stopping.on_epoch_end(epoch, {"score": score})
        if stopping.model.stop_training:
            return epoch
    return None


def test_a_resumed_run_goes_on_waiting():
    before = EarlyStopping("score", "max", 3)
    assert _stops(before, [1.0, 2.0, 1.5, 1.9]) is None
    after = EarlyStopping("score", "max", 3)
    after.set_state(json.loads(json.dumps(before.get_state())))
    assert _stops(after, [1.8, 9.0], 4) == 4
    assert _stops(EarlyStopping("score", "max", 3), [1.8, 9.0], 4) is None


@pytest.mark.parametrize(("mode", "scores"), [("max", [1.0, 2.0, 3.0]), ("min", [3.0, 2.0, 1.0])])
def test_any_number_is_better_than_none(mode, scores):
    assert _stops(EarlyStopping("score", mode, 2), [float("nan"), *scores]) is None
    assert _stops(EarlyStopping("score", mode, 2), [*scores, float("nan"), float("nan")]) == 4
