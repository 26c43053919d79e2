"""Auxiliary heads: training, metrics of the main head, and the files of a run."""

import csv
import json

import keras
import numpy as np
import pytest
from compiled_model import load_compiled
from tiny_model import flags

from kseg import evaluate, train
from kseg.losses import build_loss
from kseg.metrics.confusion_matrix import ConfusionMatrix
from kseg.models.auxiliary_head import DeeplySupervised, deeply_supervised, inference_model
from kseg.models.build import build_model
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.training.checkpoints import RunState, restore_model, save_checkpoint
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.backends

only_jax = pytest.mark.backends("jax")  # compiles a whole model


def two_heads(auxiliary_weight=None):
    """A linear model of two independent heads; supervised, or plain with the main head alone."""
    images = keras.Input((6, 5, 3), name="images")
    heads = {name: keras.layers.Conv2D(4, 1, name=name)(images) for name in ("logits", "auxiliary")}
    model = keras.Model(images, heads, name="linear")
    if auxiliary_weight is None:
        return inference_model(model)
    return deeply_supervised(model, auxiliary_weight)


def compiled(model):
    model.compile(keras.optimizers.SGD(0.5), loss=build_loss("ce+0.5*dice"), metrics=[ConfusionMatrix(4)])
    return model


@pytest.fixture
def batch(rng):
    label = rng.integers(0, 4, (2, 6, 5)).astype("uint8")
    label[0, 0] = 255
    return rng.normal(size=(2, 6, 5, 3)).astype("float32"), label


@pytest.mark.slow
def test_both_heads_train_and_the_logits_are_measured(batch):
    images, label = batch
    supervised, alone = compiled(two_heads(0.4)), compiled(two_heads())
    start = [w.copy() for w in supervised.get_layer("auxiliary").get_weights()]
    alone.get_layer("logits").set_weights(supervised.get_layer("logits").get_weights())
    before = supervised.predict_on_batch(images)
    main, auxiliary = (float(build_loss("ce+0.5*dice")(label, before[head])) for head in ("logits", "auxiliary"))

    found, expected = (model.test_on_batch(images, label, return_dict=True) for model in (supervised, alone))
    assert found.keys() == expected.keys() == {"loss", "mean_iou"}
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(main, rel=1e-5)

    for model in (supervised, alone):
        model.reset_metrics()
    found, expected = (model.train_on_batch(images, label, return_dict=True) for model in (supervised, alone))
    assert found["loss"] == pytest.approx(main + 0.4 * auxiliary, rel=1e-5)
    assert found["mean_iou"] == pytest.approx(expected["mean_iou"], rel=1e-5)
    for ours, theirs in zip(*(model.get_layer("logits").get_weights() for model in (supervised, alone)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)

    # The auxiliary head's step is 0.4 of what it would be as the main head.
    alone.get_layer("logits").set_weights(start)
    alone.train_on_batch(images, label)
    for first, ours, whole in zip(
        start, supervised.get_layer("auxiliary").get_weights(), alone.get_layer("logits").get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours - first, 0.4 * (whole - first), rtol=1e-3, atol=1e-7)


def test_a_checkpoint_trains_on(batch, tmp_path):
    images, label = batch
    model = compiled(two_heads(0.4))
    model.train_on_batch(images, label)
    path = tmp_path / "model.keras"
    save_checkpoint(path, model, RunState(epoch=1, step=0))
    loaded = load_compiled(path)
    assert type(loaded) is DeeplySupervised and loaded.auxiliary_weight == 0.4
    resumed = compiled(two_heads(0.4))
    restore_model(path, resumed)
    model.reset_metrics()
    expected = model.train_on_batch(images, label)
    assert loaded.train_on_batch(images, label) == pytest.approx(expected, rel=1e-6)
    assert resumed.train_on_batch(images, label) == pytest.approx(expected, rel=1e-6)


def test_a_model_of_one_head_is_its_own_inference_model():
    model = two_heads()
    assert inference_model(model) is model


def test_any_model_can_have_the_head():
    options = {"num_classes": 3, "backbone": "test_levels", "decoder_channels": 8}
    model, plain = (build_model("segformer", **options, auxiliary=given) for given in (True, False))
    assert {name: x.shape for name, x in model.output.items()} == dict.fromkeys(("logits", "auxiliary"), (None, None, None, 3))
    assert model.get_layer("aux_classifier_0").kernel.shape == (3, 3, 8, 2)
    assert [w.path for w in inference_model(model).weights] == [w.path for w in plain.weights]
    assert export_torch_weights(model).keys() == export_torch_weights(plain).keys()  # smp's model has no such head


def test_a_backbone_without_the_features():
    with pytest.raises(KsegError, match="an auxiliary head needs the features c4, which backbone test_conv does not have"):
        build_model("test_conv", num_classes=2, auxiliary=True)


@pytest.mark.slow
@only_jax
def test_a_run_with_an_auxiliary_head(tiny_coco, tmp_path):
    """Trained by flag; its files hold one head, or where training could go on, both."""
    run = RunDir(tmp_path / "run")
    more = ("--epochs=1", "--backbone=test_levels", "--loss=ce+0.5*dice", "--label_smoothing=0.1", "--auxiliary_weight=0.4")
    train.main(flags(tiny_coco, run.path, *more))
    (row,) = csv.DictReader(run.metrics.read_text().splitlines())
    assert {"loss", "mean_iou", "val_loss", "val_mean_iou"} <= row.keys()
    assert not [name for name in row if "auxiliary" in name or "logits" in name]
    last = load_compiled(run.checkpoints()[0])
    assert set(last.output) == {"logits", "auxiliary"} and last.auxiliary_weight == 0.4
    assert last.loss.weights == [1.0, 0.5] and last.loss.losses[0].parameters == {"label_smoothing": 0.1}
    assert load_model(run.model).output.shape == (None, None, None, 4)
    run.model.unlink()  # as in a run that was stopped
    evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={tmp_path / 'again.json'}"])
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(run.evaluation.read_text())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--loss=dise", "--loss=dise: unknown loss 'dise'; did you mean dice"),
        ("--label_smoothing=1", "--label_smoothing=1.0: must be less than 1"),
        ("--auxiliary_weight=1", "an auxiliary head needs the features c4, which backbone test_conv does not have"),
        ("--auxiliary_weight=-1", "--auxiliary_weight=-1.0: must be a finite number, 0 or more"),
    ],
)
def test_misuse_writes_nothing(tiny_coco, tmp_path, flag, message):
    with pytest.raises(KsegError) as error:
        train.main(flags(tiny_coco, tmp_path / "run", flag))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()
