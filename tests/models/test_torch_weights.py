"""Torch-layout backbones and whole models against timm and smp, with weights read by kseg.models.pytorch.load."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_last, randomise, relative_error

from kseg.models.build import build_backbone, build_model
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def timm(smp):  # smp's fixture makes torchvision importable
    import timm

    return timm


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", (64, 96)), ("resnet18", (65, 47)), ("resnet50", (65, 64)), ("resnext50_32x4d", (64, 33))]
)
def test_features_equal_timms(timm, rng, name, size):
    reference = randomise(timm.create_model(name, pretrained=False, features_only=True))
    backbone = build_backbone(name)
    load_torch_weights(backbone, reference.state_dict())
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = backbone.predict_on_batch(images)
    for level, features in zip(("c1", "c2", "c3", "c4", "c5"), expected, strict=True):
        assert relative_error(found[level], channels_last(features)) <= 1e-4, level


@pytest.mark.parametrize(
    ("backbone", "output_stride"), [("resnet18", 16), ("resnet34", 8), ("resnet50", 8), ("resnext50_32x4d", 16)]
)
def test_deeplabv3plus_equals_smps(smp, rng, backbone, output_stride):
    reference = randomise(smp.DeepLabV3Plus(backbone, encoder_weights=None, encoder_output_stride=output_stride, classes=4))
    model = build_model("deeplabv3plus", num_classes=4, backbone=backbone, output_stride=output_stride, normalization=None)
    load_torch_weights(model, reference.state_dict())
    images = rng.normal(size=(1, 64, 96, 3)).astype("float32")
    with torch.no_grad():
        expected = channels_last(reference(torch.from_numpy(images).permute(0, 3, 1, 2)))
    assert relative_error(model.predict_on_batch(images), expected) <= 1e-4


@pytest.fixture(scope="module")
def small():
    """A backbone and the state_dict that fits it."""
    model = build_backbone("resnet18")
    arrays = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            shape = [layer.kernel.shape[i] for i in (3, 2, 0, 1)]
            arrays[f"{layer.name}.weight"] = np.random.default_rng(len(arrays)).normal(size=shape).astype("float32")
        elif isinstance(layer, keras.layers.BatchNormalization):
            for name in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"{layer.name}.{name}"] = np.full(layer.gamma.shape, 0.5, "float32")
    return model, arrays


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod."])
def test_wrappers_are_seen_through(small, prefix):
    model, arrays = small
    wrapped = {f"{prefix}{key}": value for key, value in arrays.items()} | {
        f"{prefix}encoder_bn1.num_batches_tracked": np.array(3)
    }
    load_torch_weights(model, {"state_dict": wrapped, "epoch": 3})
    kernel = model.get_layer("encoder_conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), arrays["encoder_conv1.weight"])


def test_every_key_and_variable_is_used_or_named(small):
    model, arrays = small
    before = model.get_weights()
    missing = {key: value for key, value in arrays.items() if not key.startswith("encoder_layer3_1_conv2")}
    with pytest.raises(KsegError, match="the checkpoint has no weights for encoder_layer3_1_conv2; wrong model or backbone"):
        load_torch_weights(model, missing)
    with pytest.raises(KsegError, match=r"the model has no place for decoder\.aspp; wrong model or backbone"):
        load_torch_weights(model, arrays | {"decoder.aspp.weight": np.zeros(3)})
    with pytest.raises(KsegError, match=r"module encoder_bn1 has bias, gain, .* the model needs weight, bias"):
        load_torch_weights(model, {("encoder_bn1.gain" if key == "encoder_bn1.weight" else key): v for key, v in arrays.items()})
    with pytest.raises(KsegError, match=r"module encoder_conv1: weight is \(7, 7, 4, 64\) in the checkpoint"):
        load_torch_weights(model, arrays | {"encoder_conv1.weight": np.zeros((64, 4, 7, 7), "float32")})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_files(small, tmp_path):
    from safetensors.numpy import save_file

    model, arrays = small
    torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, tmp_path / "w.pth")
    save_file(arrays, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        model.set_weights([np.zeros_like(w) for w in model.get_weights()])
        load_torch_weights(model, tmp_path / name)
        np.testing.assert_array_equal(model.get_layer("encoder_bn1").get_weights()[3], 0.5)


def test_bad_files(small, tmp_path):
    model, _ = small
    with pytest.raises(KsegError, match=r"none.pth: no such file"):
        load_torch_weights(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(KsegError, match=r"text.pth: not a checkpoint that can be read safely"):
        load_torch_weights(model, tmp_path / "text.pth")
    (tmp_path / "pickle.pth").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(KsegError, match="not a checkpoint that can be read safely"):
        load_torch_weights(model, tmp_path / "pickle.pth")
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(KsegError, match="holds a list, not a state_dict"):
        load_torch_weights(model, tmp_path / "list.pth")
