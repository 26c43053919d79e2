"""The padding and the stochastic depth of efficientnet_pytorch's networks, of all sizes, and the names of their weights.

tests/models/test_models.py compares the numbers of the two smallest.
"""

import keras
import numpy as np
import pytest
import torch
from baselines import randomise

from kseg.models.backbones import efficientnet_pytorch
from kseg.models.backbones.keras_cv import _without_values
from kseg.models.build import build_backbone, build_model
from kseg.models.pytorch.export import export_torch_weights, torch_path
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError


def paddings(network):
    """(rows before, rows after, stride, dilation) by module path, of the convolutions larger than a pixel."""
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
            static = getattr(module.static_padding, "padding", (0, 0, 0, 0))
            before, after = (static[i] + module.padding[0] for i in (2, 3))
            found[path] = (before, after, module.stride[0], module.dilation[0])
    return found


def our_paddings(backbone):
    found = {}
    pads = {layer.name: layer.padding for layer in backbone.layers if isinstance(layer, keras.layers.ZeroPadding2D)}
    for layer in backbone.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)) and layer.kernel_size[0] > 1:
            (stride, _), (dilation, _) = layer.strides, layer.dilation_rate
            rows = pads[f"{layer.name}_pad"][0] if layer.padding == "valid" else (dilation * (layer.kernel_size[0] // 2),) * 2
            found[torch_path(layer.name).removeprefix("encoder.")] = (*rows, stride, dilation)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", efficientnet_pytorch.MEMBERS)
def test_padding_and_dilation_are_smps(smp, name, output_stride):
    with torch.device("meta"):
        reference = smp.encoders.get_encoder(name, weights=None, output_stride=output_stride)
    backbone = _without_values(lambda: build_backbone(name, output_stride=output_stride))
    assert our_paddings(backbone) == paddings(reference)
    assert [backbone.output[f"c{i}"].shape[-1] for i in range(1, 6)] == list(reference.out_channels[1:])
    rates = {layer.name: layer.rate for layer in backbone.layers if isinstance(layer, keras.layers.Dropout)}
    blocks = reference._blocks
    expected = {f"encoder__blocks_{i}_drop_path": 0.2 * i / len(blocks) for i, b in enumerate(blocks) if b._has_drop_connect}
    assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_smps_checkpoint_fits_its_own_backbone_and_timms_forms(smp):
    state = randomise(smp.encoders.get_encoder("efficientnet-b0", weights=None)).state_dict()
    classifier = {"_fc.weight": torch.zeros(5, 1280), "_fc.bias": torch.zeros(5)}
    whole = {f"encoder.{key}": value for key, value in state.items()}
    for name in ("efficientnet-b0", "timm-efficientnet-b0", "tf_efficientnet_b0"):
        backbone = build_backbone(name)
        found = load_torch_weights(backbone, {**state, **classifier}, source="efficientnet_pytorch")
        assert set(found.left_out) == {"_conv_head", "_bn1", "_fc"}
        weights = [keras.ops.convert_to_numpy(weight) for weight in backbone.weights]
        other = build_backbone(name)
        assert load_torch_weights(other, whole).sources == ("smp",)
        for one, two in zip(weights, other.weights, strict=True):
            np.testing.assert_array_equal(one, keras.ops.convert_to_numpy(two))
    with pytest.raises(KsegError, match="the checkpoint has no weights for encoder__blocks_"):
        load_torch_weights(build_backbone("efficientnet-b1"), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder", ["efficientnet-b0", "tu-tf_efficientnetv2_b0", "tu-mobilenetv3_small_100", "tu-hrnet_w18_small"]
)
def test_smps_pspnet_has_the_stages_that_are_not_read(smp, encoder):
    reference = randomise(smp.PSPNet(encoder, encoder_weights=None, classes=3))
    model = build_model("pspnet", num_classes=3, backbone=encoder, normalization=None)
    load_torch_weights(model, reference.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = reference(images)
        weights = {key: torch.from_numpy(array) for key, array in export_torch_weights(model).items()}
        other = smp.PSPNet(encoder, encoder_weights=None, classes=3).eval()
        other.load_state_dict(weights, strict=True)
        assert torch.equal(other(images), before)
