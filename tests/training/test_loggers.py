"""What TensorBoard, Weights & Biases and MLflow receive from a run."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from tiny_model import flags

from kseg import train
from kseg.config import TrackingConfig, TrainConfig
from kseg.runtime.run_dir import RunDir
from kseg.training import loggers
from kseg.training.progress import Progress, TrainState
from kseg.utils.errors import KsegError


def test_tensorboard(tiny_coco, tmp_path):
    run = RunDir(tmp_path / "run")
    train.main(flags(tiny_coco, run.path, "--tensorboard", "--learning_rate=0.02"))
    events = {}
    for part in ("train", "validation"):
        events[part] = EventAccumulator(str(run.tensorboard / part), size_guidance={"tensors": 0, "images": 0})
        events[part].Reload()
    scalars = {part: {tag: _scalars(events[part], tag) for tag in events[part].Tags()["tensors"]} for part in events}
    names = {"loss", "mean_iou", "learning_rate", "seconds", "images_per_second"}
    assert {f"epoch_{name}" for name in names} <= set(scalars["train"])
    header, *rows = [line.split(",") for line in run.metrics.read_text().splitlines()]
    column = header.index("val_mean_iou")
    np.testing.assert_allclose(scalars["validation"]["epoch_mean_iou"], [float(row[column]) for row in rows], rtol=1e-6)
    assert not [tag for tag in events["validation"].Tags()["tensors"] if tag.startswith("evaluation")]
    pictures = sorted(tag for tag in events["validation"].Tags()["tensors"] if tag.startswith("predictions/"))
    assert pictures == [f"predictions/{name:03}.png" for name in (0, 1, 3, 4)]
    first, last = (_picture(events["validation"], pictures[0], step) for step in (0, 1))
    assert first.size == (3 * 64 + 2 * 8, 48)
    image, label, prediction = (np.asarray(last)[:, left : left + 64] for left in (0, 72, 144))
    np.testing.assert_array_equal(image, Image.open(tiny_coco / "images/val/000.png"))
    assert len(np.unique(label.reshape(-1, 3), axis=0)) == 4
    assert set(map(tuple, prediction.reshape(-1, 3))) <= set(map(tuple, label.reshape(-1, 3)))


def _scalars(events, tag):
    values = [make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]
    return [float(value) for value in values if value.shape == ()]


def _picture(events, tag, step):
    width, height, content = events.Tensors(tag)[step].tensor_proto.string_val
    picture = Image.open(io.BytesIO(content))
    assert (str(picture.width).encode(), str(picture.height).encode()) == (width, height)
    return picture


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed(tiny_coco, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "_installed", lambda package: False)
    with pytest.raises(KsegError, match=rf"--{name}=mine: {name} is not installed; install it \(pip install {name}\)"):
        train.main(flags(tiny_coco, tmp_path / "run", f"--{name}=mine"))
    assert not (tmp_path / "run").exists()


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "kseg_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not loggers._installed("kseg_tracker")
    assert not loggers._installed("kseg_no_tracker")
    assert loggers._installed("tensorboard")


def test_a_service_that_cannot_start(tmp_path):
    class Broken(loggers._Service):
        flag = "wandb"

        def start(self):
            raise OSError("no route\nto host")

    progress = Progress(TrainState(steps=1), batch_size=1, epochs=1)
    broken = Broken("mine", TrainConfig(tracking=TrackingConfig(wandb="mine")), RunDir(tmp_path), progress)
    with pytest.raises(KsegError, match=r"--wandb=mine: cannot start \(no route to host\)"):
        broken.on_epoch_begin(0)


# Weights & Biases and MLflow are large and no dependency of the tests: these two run where somebody has installed them.


def test_wandb_offline(tiny_coco, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    run = RunDir(tmp_path / "run")
    _run_train(flags(tiny_coco, run.path, "--wandb=mine"), WANDB_MODE="offline")
    (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"val_mean_iou" in content and b"image_size" in content


@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, in which the test reads what was logged
def test_mlflow_in_a_file(tiny_coco, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    _run_train(flags(tiny_coco, tmp_path / "run", "--mlflow=mine"), MLFLOW_TRACKING_URI=uri)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["model"] == "test_conv"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_mean_iou")] == [0, 1]


def _run_train(arguments, **environment):
    """In a process of its own: these packages set up threads and hooks, and warn."""
    code = f"import sys, json, tiny_model; from kseg import train; train.main(json.loads({json.dumps(json.dumps(arguments))}))"
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **environment, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
