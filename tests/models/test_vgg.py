"""VGG backbones against smp's encoder, level by level, with weights read by kseg.models.pytorch.load."""

import numpy as np
import pytest
import torch

from kseg.models.build import build_backbone
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError

LEVELS = ("c0", "c1", "c2", "c3", "c4", "c5")


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "vgg11_bn"])
def test_features_equal_smps(smp, rng, name):
    torch.manual_seed(0)
    reference = smp.encoders.get_encoder(name, weights=None).eval()
    for layer in reference.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)  # torchvision's begin at zero
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_var, 0.8, 1.5)
    backbone = build_backbone(name)
    load_torch_weights(backbone, reference.state_dict())
    for size in ((64, 96), (65, 47)) if name != "vgg11_bn" else ((65, 47),):
        images = rng.normal(size=(1, *size, 3)).astype("float32")
        with torch.no_grad():
            expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2))
        found = backbone.predict_on_batch(images)
        assert set(found) == set(LEVELS)
        for level, features in zip(LEVELS, expected, strict=True):
            features = features.permute(0, 2, 3, 1).numpy()
            assert found[level].shape == features.shape
            error = np.abs(found[level] - features).max() / np.abs(features).max()
            print(f"{name} {size} {level}: {error:.1e}")
            assert error <= 1e-4, (size, level)


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg13_bn", "vgg19", "vgg19_bn"])
def test_layers_are_torchvisions(smp, name):
    """Names and shapes, without weights: `meta` tensors take no memory."""
    from torchvision.models import vgg

    with torch.device("meta"):
        reference = getattr(vgg, name)(init_weights=False).features
    expected = {}
    for path, layer in reference.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            expected[f"encoder_features_{path}"] = [tuple(layer.weight.permute(2, 3, 1, 0).shape), (layer.out_channels,)]
        elif isinstance(layer, torch.nn.BatchNorm2d):
            expected[f"encoder_features_{path}"] = [(layer.num_features,)] * 4
    backbone = build_backbone(name)
    assert {layer.name: [tuple(w.shape) for w in layer.weights] for layer in backbone.layers if layer.weights} == expected


def test_a_classifiers_checkpoint_fits_without_its_head():
    backbone = build_backbone("vgg11")
    state = {}
    for layer in backbone.layers:
        if layer.weights:
            path = layer.name.replace("encoder_features_", "features.")
            kernel, bias = layer.get_weights()
            state |= {f"{path}.weight": kernel.transpose(3, 2, 0, 1) + 1, f"{path}.bias": bias + 2}
    for head in ({"classifier.0.weight": np.zeros((8, 4))}, {"pre_logits.fc1.weight": np.zeros(3), "head.fc.bias": np.zeros(2)}):
        backbone.get_layer("encoder_features_0").set_weights([np.zeros((3, 3, 3, 64)), np.zeros(64)])
        load_torch_weights(backbone, state | head)
        kernel, bias = backbone.get_layer("encoder_features_0").get_weights()
        np.testing.assert_array_equal(kernel, state["features.0.weight"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(bias, 2)


def test_it_cannot_be_dilated():
    with pytest.raises(KsegError, match=r"backbone vgg16 cannot have output_stride=16 \(its layers cannot be dilated\)"):
        build_backbone("vgg16", output_stride=16)
