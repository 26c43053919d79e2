"""smp's classification head: smp's numbers, training beside the logits, the files of a run, and the way back to smp."""

import json

import keras
import numpy as np
import pytest
import torch
from baselines import randomise
from parity import channels_first, channels_last, make_smooth
from tiny_model import flags

import kseg
from kseg import convert, train
from kseg.inference.source import find_source
from kseg.losses import build_loss
from kseg.losses.presence import presence
from kseg.models.build import build_model
from kseg.models.classification_head import Classifying, aux_params, classifying
from kseg.models.layers import NORMALIZATIONS
from kseg.models.model_info import KERAS_MEMBER, ModelInfo
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.saving import load_model, save_model
from kseg.runtime.run_dir import RunDir
from kseg.training.checkpoints import RunState, restore_model, save_checkpoint
from kseg.utils.errors import KsegError

on_torch = pytest.mark.backends("torch")  # compiles nothing
only_jax = pytest.mark.backends("jax")  # compiles a whole model


def assert_close(found, expected, tolerance=1e-4):
    found, expected = (np.asarray(keras.ops.convert_to_numpy(x)) for x in (found, expected))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def linear_model(auxiliary_weight=0.0):
    """A model of independent heads, whose classification is linear, too."""
    images = keras.Input((6, 5, 3), name="images")
    heads = {"logits": keras.layers.Conv2D(4, 1, name="logits")(images)}
    if auxiliary_weight:
        heads["auxiliary"] = keras.layers.Conv2D(4, 1, name="auxiliary")(images)
    heads["classification"] = keras.layers.Dense(4, name="classification")(keras.layers.GlobalAveragePooling2D()(images))
    return classifying(keras.Model(images, heads, name="linear"), 0.1, auxiliary_weight=auxiliary_weight, ignore_index=7)


def compiled(model):
    model.compile(keras.optimizers.SGD(0.5), loss=build_loss("ce+0.5*dice", ignore_index=7))
    return model


@pytest.fixture
def batch(rng):
    label = rng.integers(0, 4, (3, 6, 5)).astype("uint8")
    label[0] = 7  # an image without labels
    label[1, label[1] == 2] = 7
    return rng.normal(size=(3, 6, 5, 3)).astype("float32"), label


@pytest.mark.backends
def test_the_loss_is_torchs(batch):
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype("float32") * 3
    present = np.array([[(image == c).any() for c in range(4)] for image in batch[1][1:]], "float32")
    assert not present[0, 2]
    bce = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logits[1:]), torch.from_numpy(present))
    assert float(presence(logits, batch[1], ignore_index=7)) == pytest.approx(bce.item(), rel=1e-6)
    assert float(presence(logits, np.full_like(batch[1], 7), ignore_index=7)) == 0


@pytest.mark.backends
@pytest.mark.parametrize("auxiliary_weight", [0.0, 0.4])
def test_all_heads_train_and_a_checkpoint_trains_on(batch, tmp_path, auxiliary_weight):
    images, label = batch
    model = compiled(linear_model(auxiliary_weight))
    y = model.predict_on_batch(images)
    loss = build_loss("ce+0.5*dice", ignore_index=7)
    expected = float(loss(label, y["logits"]))
    assert model.test_on_batch(images, label) == pytest.approx(expected, rel=1e-5)
    expected += 0.1 * float(presence(y["classification"], label, ignore_index=7))
    if auxiliary_weight:
        expected += 0.4 * float(loss(label, y["auxiliary"]))
    start = model.get_layer("classification").get_weights()[0].copy()
    model.reset_metrics()
    assert model.train_on_batch(images, label) == pytest.approx(expected, rel=1e-5)
    assert (model.get_layer("classification").get_weights()[0] != start).any()

    save_checkpoint(tmp_path / "model.keras", model, RunState(epoch=1, step=0))
    loaded = load_model(tmp_path / "model.keras")
    settings = ("classification_weight", "auxiliary_weight", "ignore_index")
    assert type(loaded) is Classifying and [getattr(loaded, name) for name in settings] == [0.1, auxiliary_weight, 7]
    resumed = compiled(linear_model(auxiliary_weight))
    restore_model(tmp_path / "model.keras", resumed)
    model.reset_metrics()
    assert resumed.train_on_batch(images, label) == pytest.approx(model.train_on_batch(images, label), rel=1e-6)


@on_torch
@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_numbers_equal_smps(smp, rng, pooling):
    """Logits of both heads, and the gradients of a training step with ignored pixels."""
    channels = (16, 8, 8)
    head = {"classes": 3, "pooling": pooling, "dropout": 0.3, "activation": "sigmoid"}
    more = {"encoder_depth": 3, "decoder_channels": channels}
    reference = randomise(smp.Unet("resnet18", encoder_weights=None, classes=3, aux_params=head, **more))
    model = build_model(
        "unet", num_classes=3, backbone="resnet18", normalization=None, depth=3, decoder_channels=channels,
        classification={"pooling": pooling, "dropout": 0.3},
    )  # fmt: skip
    load_torch_weights(model, reference.state_dict())
    images = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    found = model.predict_on_batch(images)
    with torch.no_grad():
        masks, labels = reference(channels_first(images))
    assert_close(found["logits"], channels_last(masks))
    assert_close(1 / (1 + np.exp(-found["classification"])), labels.numpy())

    reference.classification_head[4] = torch.nn.Identity()
    make_smooth(reference, model)
    label = rng.integers(0, 2, (2, 64, 64))
    label[0, :40] = 255
    label[1, :8] = 2
    masks, labels = reference.train()(channels_first(images))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(labels, torch.tensor([[1.0, 1, 0], [1, 1, 1]]))
    expected = torch.nn.functional.cross_entropy(masks, torch.from_numpy(label), ignore_index=255) + 0.1 * bce
    expected.backward()
    trained = classifying(model, 0.1)
    trained.compile(loss=build_loss("ce"))
    loss = trained.compute_loss(y=torch.from_numpy(label), y_pred=trained(images, training=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    loss.backward()
    gradients = [variable.value.grad.numpy().copy() for variable in model.trainable_variables]
    load_torch_weights(model, reference.state_dict() | {key: value.grad for key, value in reference.named_parameters()})
    largest = max(np.abs(gradient).max() for gradient in gradients)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        theirs = keras.ops.convert_to_numpy(variable)
        scale = max(np.abs(theirs).max(), 0.01 * largest)
        assert np.abs(gradient - theirs).max() <= 1e-3 * scale, variable.path


@on_torch
@pytest.mark.slow
def test_convert_reads_it_or_leaves_it_out_and_writes_it_back(smp, tmp_path, capsys):
    """A head with other classes than the masks, as of smp's binary models."""
    options = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
    head = {"classes": 3, "pooling": "max", "dropout": 0.5}
    reference = randomise(smp.Unet("resnet18", encoder_weights=None, classes=2, aux_params=head, **options))
    torch.save(reference.state_dict(), tmp_path / "smp.pth")
    command = [
        "kseg.convert", f"--checkpoint={tmp_path / 'smp.pth'}", "--model=unet", "--backbone=resnet18", "--num_classes=2",
        "--model_options=depth=3,decoder_channels=(16,8,8)",
    ]  # fmt: skip
    convert.main([*command, f"--output={tmp_path / 'without.keras'}"])
    assert "classification_head.3" in capsys.readouterr().out
    convert.main([*command, "--classification=max", f"--output={tmp_path / 'with.keras'}"])
    assert "classification" not in capsys.readouterr().out
    model = load_model(tmp_path / "with.keras")
    assert aux_params(model) == {"classes": 3, "pooling": "max", "dropout": 0.2}
    assert aux_params(load_model(tmp_path / "without.keras")) is None
    assert len(find_source(str(tmp_path / "with.keras")).load().output.shape) == 4
    state = {key: torch.from_numpy(value) for key, value in kseg.export_torch_weights(model).items()}
    assert state["classification_head.3.bias"].equal(reference.state_dict()["classification_head.3.bias"])
    reference.load_state_dict(state, strict=True)
    other = build_model("unet", num_classes=2, backbone="resnet18", classification=True, depth=3, decoder_channels=(16, 8, 8))
    with pytest.raises(KsegError, match=r'3 has 3 classes, the model\'s 2; use classification={"classes": 3}, or keep'):
        load_torch_weights(other, reference.state_dict())
    del state["classification_head.3.bias"], state["classification_head.3.weight"]
    torch.save(state, tmp_path / "smp.pth")
    with pytest.raises(KsegError, match=r"smp\.pth: has no classification head; leave --classification out"):
        convert.main([*command, "--classification=max", f"--output={tmp_path / 'none.keras'}"])


@on_torch
@pytest.mark.slow
def test_smp_opens_it_with_the_head(smp, tmp_path):
    settings = {"pooling": "max", "classes": 4, "dropout": 0.4}
    model = build_model("unet", num_classes=3, backbone="resnet18", classification=settings, decoder_channels=(8, 8, 8, 8, 8))
    info = ModelInfo("unet", ("a", "b", "c"), (64, 64), "resnet18", options={"decoder_channels": (8, 8, 8, 8, 8)},
                     normalization=NORMALIZATIONS["imagenet"])  # fmt: skip
    save_model(model, tmp_path / "m.keras", {KERAS_MEMBER: info.to_json()})
    convert.main(["kseg.convert", "--to=smp", f"--checkpoint={tmp_path / 'm.keras'}", f"--output={tmp_path / 'smp'}"])
    assert json.loads((tmp_path / "smp" / "config.json").read_text())["aux_params"] == settings
    network = smp.from_pretrained(str(tmp_path / "smp")).eval()
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype="uint8")
    normalized = keras.ops.convert_to_numpy(model.get_layer("normalize")(images))
    with torch.no_grad():
        masks, labels = network(channels_first(normalized))
    found = model.predict_on_batch(images)
    assert_close(found["logits"], channels_last(masks))
    assert_close(found["classification"], labels.numpy())


@only_jax
@pytest.mark.slow
def test_a_run_with_a_classification_head(tiny_coco, tmp_path):
    """Checkpoints and model.keras keep the head; what predicts has none."""
    run = RunDir(tmp_path / "run")
    train.main(flags(tiny_coco, run.path, "--epochs=1", "--classification_weight=0.1"))
    last = load_model(run.checkpoints()[0])
    assert type(last) is Classifying and last.classification_weight == 0.1
    assert set(load_model(run.model).output) == {"logits", "classification"}
    assert find_source(str(run.path)).load().output.shape == (None, None, None, 4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pooling": "sum"}, "pooling='sum': must be 'avg' or 'max'"),
        ({"classes": 0}, "classes=0: must be a whole number, 1 or more"),
        ({"dropout": 1}, "dropout=1: must be 0 or more, and less than 1"),
        ({"activation": "sigmoid"}, "activation: the head returns logits"),
        ({"poling": "max"}, "unknown setting 'poling'; did you mean pooling"),
    ],
)
def test_settings_that_no_head_has(settings, says):
    with pytest.raises(KsegError, match=says):
        build_model("test_conv", num_classes=2, classification=settings)


def test_chunks_do_not_go_with_it():
    with pytest.raises(KsegError, match="--loss_chunks=2: does not work with --classification_weight"):
        train.main(["kseg.train", "--loss_chunks=2", "--classification_weight=0.1"])
