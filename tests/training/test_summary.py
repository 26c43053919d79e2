"""The lines at the head of a run: FLOPs and the time estimate."""

import re

import keras
import pytest
from tiny_model import flags

from kseg import build_backbone, build_model, train
from kseg.models import layers
from kseg.models.layers import DotProductAttention
from kseg.models.windows import WindowAttention
from kseg.training.flops import count_flops
from kseg.training.progress import TimeEstimate, duration

SIDES = (12, 20)


def _model(*stack):
    images = keras.Input((None, None, 8))
    x = images
    for layer in stack:
        x = layer(x)
    return keras.Model(images, x)


@pytest.mark.parametrize(
    ("stack", "products"),
    [
        ([layers.Conv2D(4, 3, padding="same")], 12 * 20 * 3 * 3 * 8 * 4),
        ([keras.layers.Conv2D(4, 3, strides=2)], 5 * 9 * 3 * 3 * 8 * 4),
        ([layers.Conv2D(4, 3, groups=2, padding="same")], 12 * 20 * 3 * 3 * 4 * 4),
        ([layers.DepthwiseConv2D(3, padding="same")], 12 * 20 * 3 * 3 * 8),
        ([keras.layers.Conv2DTranspose(4, 2, strides=2)], 12 * 20 * 2 * 2 * 8 * 4),
        ([keras.layers.Dense(4), keras.layers.ReLU()], 12 * 20 * 8 * 4),
        ([_model(layers.Conv2D(8, 1)), layers.Conv2D(4, 1)], 12 * 20 * (8 * 8 + 8 * 4)),
    ],
    ids=["conv", "strided", "grouped", "depthwise", "transposed", "dense", "nested"],
)
def test_flops_counted_by_hand(stack, products):
    model = _model(*stack)
    assert count_flops(model, SIDES) == 2 * products
    assert "call" not in {name for layer in model.layers for name in vars(layer)}  # the model is as it was


def test_flops_of_attention():
    images = keras.Input((None, None, 8))
    keys = keras.layers.AveragePooling2D(2)(images)
    model = keras.Model(images, DotProductAttention(2)([images, keys, keys]))
    places, others = 12 * 20, 6 * 10
    assert count_flops(model, SIDES) == 2 * (2 * places * others * 8)


def test_flops_of_attention_in_windows():
    images = keras.Input((None, None, 3))
    model = keras.Model(images, WindowAttention(num_heads=1, window=4)(keras.layers.Concatenate()([images] * 4)))
    rows, columns = SIDES
    assert count_flops(model, SIDES) == 2 * (2 * rows * columns * 4 * 4**2)  # four channels of queries, keys and values each


def test_flops_of_resnet18():
    """torchvision states 1.814 G multiply-adds at 224x224, with the classifier of 512 x 1000, which the backbone lacks."""
    assert count_flops(build_backbone("resnet18"), (224, 224)) / 2 == pytest.approx(1.814e9 - 512e3, abs=0.5e6)


def test_the_head_of_a_run(tiny_coco, tmp_path, capsys):
    train.main(flags(tiny_coco, tmp_path / "run", "--epochs=5", "--early_stopping=4"))
    out = capsys.readouterr().out
    model = build_model("test_conv", num_classes=4)
    head = dict(re.split(r" +", line, maxsplit=1) for line in out.splitlines()[:10])
    assert head["source"] == "coco: annotations/train.json, images in images/train"
    assert head["labels"] == "pixels without annotation = background, 3 red, 5 green, 11 blue"
    assert head["skipped"] == "nothing"
    assert head["backend"].startswith(f"{keras.backend.backend()} ") and head["backend"].endswith(", float32")
    assert head["model"] == f"test_conv on test_conv, {model.count_params() / 1e3:.3g} k parameters (4.05 k trainable)"
    flops = 2 * 24 * 32 * (3 * 3 * 3 * 16 + 3 * 3 * 16 * 24 + 24 * 4)
    assert head["input"] == f"48x64, {flops / 1e6:.3g} MFLOPs an image (forward)"
    assert head["data"] == "9 training and 5 validation images, 4 classes"
    assert head["run"] == f"5 epochs of 3 steps, batch 3, into {tmp_path / 'run'}"
    assert head["best"] == "the epoch by val_mean_iou, ends after 4 epochs without a better one"
    (line,) = (line for line in out.splitlines() if line.startswith("time"))
    assert re.fullmatch(r"time +about \d+ s of training left \([\d.e-]+ s a step\), and validation", line)
    assert out.index("epoch 3/5") < out.index(line) < out.index("epoch 4/5")  # after the 11th of 15 steps


def test_the_time_is_that_of_the_steps_to_come(capsys, monkeypatch):
    """Each step takes a second, the first one a minute, and validation between the epochs an hour."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    estimate = TimeEstimate(steps_per_epoch=4, epochs=10)
    for epoch in range(10):
        estimate.on_epoch_begin(epoch)
        for batch in range(4):
            now[0] += 1 if epoch or batch else 60
            estimate.on_train_batch_end(batch, {"loss": 1.0})
        now[0] += 3600
    assert capsys.readouterr().out == "time    about 29 s of training left (1 s a step), and validation\n"


@pytest.mark.parametrize(("seconds", "text"), [(25.4, "25 s"), (720, "12 min"), (12000, "3 h 20 min"), (200000, "2 days 7 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text
