"""Reads PyTorch's checkpoints: wrappers, classifiers and unused parts, and what does not fit."""

import keras
import numpy as np
import pytest
import torch

from kseg.models.build import build_backbone, build_model
from kseg.models.pytorch.export import export_torch_weights
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError


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


def test_a_model_shares_no_memory_with_pytorch(small):
    """Training the one must not change the other. JAX takes over an aligned array's memory, as torch's tensors have."""
    model, arrays = small
    tensors = {key: torch.tensor(value) for key, value in arrays.items()}
    load_torch_weights(model, tensors)
    exported = export_torch_weights(model)
    before = [np.array(weight) for weight in model.get_weights()]
    for array in (*tensors.values(), *exported.values()):
        array += 1
    assert [weight.tobytes() for weight in model.get_weights()] == [weight.tobytes() for weight in before]


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


# --- What is left out -----------------------------------------------------------------------------------------------------------


def kernel(model, layer):
    """Laid out as torch's."""
    return model.get_layer(layer).get_weights()[0].transpose(3, 2, 0, 1)


@pytest.mark.parametrize("head", [["classifier.0.weight"], ["pre_logits.fc1.weight", "head.fc.bias"]])
def test_a_classifiers_checkpoint_fits_without_its_head(head):
    backbone = build_backbone("vgg11")
    state = {}
    for layer in backbone.layers:
        if layer.weights:
            weight, bias = layer.get_weights()
            path = layer.name.replace("encoder_features_", "features.")
            state |= {f"{path}.weight": weight.transpose(3, 2, 0, 1) + 1, f"{path}.bias": bias + 2}
    load_torch_weights(backbone, state | {key: np.zeros(3) for key in head})
    np.testing.assert_array_equal(kernel(backbone, "encoder_features_0"), state["features.0.weight"])
    np.testing.assert_array_equal(backbone.get_layer("encoder_features_0").get_weights()[1], 2)


def test_torchvisions_checkpoint_fits_but_for_its_classifier(smp):  # smp's fixture makes torchvision importable
    import torchvision

    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    backbone = build_backbone("mobilenet_v2")
    load_torch_weights(backbone, state)
    np.testing.assert_array_equal(kernel(backbone, "encoder_features_18_0"), state["features.18.0.weight"].numpy())
    with pytest.raises(KsegError, match="the model has no place for conv_head; wrong model or backbone"):
        load_torch_weights(backbone, {**state, "conv_head.weight": np.zeros(3)})  # which only EfficientNet leaves out


def test_a_whole_timm_checkpoint_fits_both_forms_but_for_its_named_head(smp):
    import timm

    state = timm.create_model("tf_efficientnet_b0", pretrained=False).state_dict()
    for name in ("tf_efficientnet_b0", "timm-efficientnet-b0"):
        backbone = build_backbone(name)
        load_torch_weights(backbone, state)
        np.testing.assert_array_equal(
            kernel(backbone, "encoder_blocks_6_0_conv_pwl"), state["blocks.6.0.conv_pwl.weight"].numpy()
        )
    with pytest.raises(KsegError, match="the model has no place for conv_tail; wrong model or backbone"):
        load_torch_weights(backbone, {**state, "conv_tail.weight": np.zeros(3)})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
def test_forms_of_efficientnet_are_told_apart(smp):
    """Their weights have the same shapes, and a whole model would give other numbers in another form."""
    forms = {
        "efficientnet-b0": "efficientnet-b0",
        "timm-efficientnet-b0": "timm-efficientnet-b0",
        "tu-tf_efficientnet_b0": "tf_efficientnet_b0",
    }
    settings = {"decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32}
    states = {ours: smp.FPN(theirs, encoder_weights=None, classes=2, **settings).state_dict() for theirs, ours in forms.items()}
    options = {"pyramid_channels": 8, "segmentation_channels": 32}
    for name in states:
        model = build_model("fpn", num_classes=2, backbone=name, **options)
        for other, state in states.items():
            if other == name:
                load_torch_weights(model, state)
                continue
            with pytest.raises(KsegError, match=f"is of the form of {other}.*, the model's of {name}"):
                load_torch_weights(model, state)


@pytest.mark.slow
def test_only_the_auxiliary_head_may_be_left_over(smp):
    from torchvision.models import segmentation

    model = build_model("fcn_resnet50", num_classes=2)
    state = segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).state_dict()
    load_torch_weights(model, state)
    np.testing.assert_array_equal(kernel(model, "classifier_4"), state["classifier.4.weight"].numpy())
    with pytest.raises(KsegError, match=r"the model has no place for classifier\.9"):
        load_torch_weights(model, state | {"classifier.9.weight": torch.zeros(1)})
    with pytest.raises(KsegError, match="the checkpoint has no weights for encoder_conv1"):
        load_torch_weights(model, {key: value for key, value in state.items() if key != "backbone.conv1.weight"})


@pytest.mark.slow
def test_group_norm_without_a_bias_is_refused(smp):
    state = smp.FPN("resnet18", encoder_weights=None, classes=4).state_dict()
    del state["decoder.seg_blocks.3.block.0.block.1.bias"]
    model = build_model("fpn", num_classes=4, backbone="resnet18")
    with pytest.raises(KsegError, match=r"decoder_seg_blocks_3_block_0_block_1 has weight in the checkpoint; .* weight, bias"):
        load_torch_weights(model, state)
