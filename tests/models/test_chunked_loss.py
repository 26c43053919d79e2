"""Loss and metrics in chunks of rows equal those of the full model, and take less memory."""

import json

import keras
import numpy as np
import pytest
from compiled_model import load_compiled
from small_model import small_model
from tiny_model import flags

from kseg import evaluate, train
from kseg.config import TrainConfig
from kseg.losses import CrossEntropy
from kseg.metrics.confusion_matrix import ConfusionMatrix
from kseg.models.auxiliary_head import inference_model
from kseg.models.build import build_model
from kseg.models.chunked_loss import ChunkedLoss, with_chunked_loss
from kseg.models.layers import Resize
from kseg.models.saving import load_model
from kseg.runtime.run_dir import RunDir
from kseg.utils.errors import KsegError

only_jax = pytest.mark.backends("jax")


def compiled(model, loss):
    """The model, and its metric."""
    metric = ConfusionMatrix(3)
    model.compile(keras.optimizers.SGD(0.5), loss=loss, metrics=[metric])
    return model, metric


def without_dropout():
    model = small_model()
    (dropout,) = (layer for layer in model.layers if isinstance(layer, keras.layers.Dropout))
    dropout.rate = 0.0
    return model


@pytest.mark.slow
@only_jax
@pytest.mark.parametrize("chunks", [1, 3, 50])
def test_steps_are_the_whole_models(rng, chunks):
    """Rows that the chunks do not divide, ignored pixels, class weights and smoothing; two steps, then the statistics."""
    images = rng.integers(0, 256, (2, 50, 36, 3), dtype="uint8")
    label = rng.integers(0, 3, (2, 50, 36)).astype("uint8")
    label[:, -3:] = 255
    loss = CrossEntropy(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1)
    keras.utils.set_random_seed(1)
    whole, matrix = compiled(without_dropout(), loss)
    keras.utils.set_random_seed(1)
    parts, same = compiled(with_chunked_loss(without_dropout(), chunks), loss)
    for _ in range(2):
        expected, found = (model.train_on_batch(images, label, return_dict=True) for model in (whole, parts))
        assert found == pytest.approx(expected, rel=1e-5)
    for a, b in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert matrix.confusion_matrix().sum() == 2 * 47 * 36
    assert (same.confusion_matrix() == matrix.confusion_matrix()).all()
    expected, found = (model.test_on_batch(images, label, return_dict=True) for model in (whole, parts))
    assert found == pytest.approx(expected, rel=1e-4)
    parts.set_weights(whole.get_weights())
    used = inference_model(parts)
    np.testing.assert_allclose(used.predict_on_batch(images), whole.predict_on_batch(images), rtol=1e-5, atol=1e-6)
    assert inference_model(used) is used


@only_jax
def test_nothing_to_learn_from_is_no_loss(rng):
    images = rng.integers(0, 256, (1, 32, 32, 3), dtype="uint8")
    model, _ = compiled(with_chunked_loss(small_model(), 4), CrossEntropy())
    before = [weight.copy() for weight in model.get_weights()]
    assert model.train_on_batch(images, np.full((1, 32, 32), 255, "uint8"), return_dict=True)["loss"] == 0
    kernels = [i for i, variable in enumerate(model.weights) if "kernel" in variable.path]
    assert kernels and all((model.get_weights()[i] == before[i]).all() for i in kernels)


@only_jax
def test_logits_of_many_classes_never_exist_as_a_whole():
    from kseg.runtime.memory import step_memory

    images, label = np.zeros((2, 128, 128, 3), "uint8"), np.zeros((2, 128, 128), "uint8")
    logits = 2 * 128 * 128 * 200 * 4
    needed = []
    for make in (lambda model: model, lambda model: with_chunked_loss(model, 8)):
        model = make(build_model("test_conv", num_classes=200))
        model.compile(keras.optimizers.SGD(0.1), loss=CrossEntropy(), metrics=[ConfusionMatrix(200)])
        needed.append(step_memory(model, images, label))
    assert needed[0] > 2 * logits
    assert needed[1] < needed[0] - 1.5 * logits


@pytest.mark.slow
@only_jax
def test_a_run(tiny_coco, tmp_path):
    """Its checkpoints resume, and model.keras is the full model."""
    run = RunDir(tmp_path / "run")
    more = ("--loss_chunks=5", "--class_weights=median_frequency", "--tensorboard")
    train.main(flags(tiny_coco, run.path, *more, "--epochs=1"))
    assert TrainConfig.from_json(run.config.read_text()).objective.loss_chunks == 5
    last = load_compiled(run.checkpoints()[0])
    assert type(last) is ChunkedLoss and last.chunks == 5
    assert load_model(run.model)(np.zeros((1, 48, 64, 3))).shape == (1, 48, 64, 4)
    file = tmp_path / "again.json"
    evaluate.main(["kseg.evaluate", f"--model={run.path}", f"--output={file}"])
    assert json.loads(file.read_text()) == json.loads(run.evaluation.read_text())


@pytest.mark.slow
@only_jax
def test_a_run_in_chunks_equals_the_run_at_once(tiny_coco, tmp_path):
    runs = [RunDir(tmp_path / name) for name in ("whole", "chunks")]
    for run, more in zip(runs, ((), ("--loss_chunks=4",)), strict=True):
        train.main(flags(tiny_coco, run.path, *more))
    whole, chunks = (run.read_metrics()[-1] for run in runs)
    assert chunks == pytest.approx(whole, rel=1e-3)


@only_jax
def test_a_decoder_that_ends_at_the_images_size_has_nothing_to_save():
    images = keras.Input((None, None, 3))
    model = keras.Model(images, Resize(True)([keras.layers.Conv2D(2, 1)(images), images]), name="level")
    with pytest.raises(KsegError, match=r"^--loss_chunks=2: the decoder of level ends at the image's size itself; leave it out$"):
        with_chunked_loss(model, 2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--loss_chunks=-1",), "--loss_chunks=-1: must be at least 0"),
        (("--loss_chunks=2", "--loss=ce+dice"), "--loss_chunks=2: works with --loss=ce only"),
        (("--loss_chunks=2", "--auxiliary_weight=0.4"), "--loss_chunks=2: does not work with --auxiliary_weight"),
        pytest.param(
            ("--loss_chunks=2",),
            "--loss_chunks=2: needs the JAX backend, and this is ",
            marks=pytest.mark.backends("tensorflow", "torch"),
        ),
    ],
)
def test_misuse_is_one_line(tiny_coco, tmp_path, more, says):
    with pytest.raises(KsegError) as error:
        train.main(flags(tiny_coco, tmp_path / "run", *more))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
