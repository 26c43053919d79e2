"""torchvision's segmentation models as a whole against torchvision's."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_first, channels_last, randomise, relative_error

from kseg.models.build import build_model
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def segmentation(smp):  # smp's fixture makes torchvision importable
    from torchvision.models import segmentation

    return segmentation


@pytest.fixture(scope="module")
def pair(segmentation, request):
    """torchvision's model with its auxiliary head, and ours with its weights."""
    build = getattr(segmentation, request.param)
    reference = randomise(build(weights=None, weights_backbone=None, num_classes=4, aux_loss=True))
    model = build_model(request.param, num_classes=4, normalization=None)
    load_torch_weights(model, reference.state_dict())
    return reference, model


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
@pytest.mark.parametrize("pair", ["fcn_resnet50", "deeplabv3_resnet50"], indirect=True)
def test_logits_equal_torchvisions(pair, rng, size):
    reference, model = pair
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = channels_last(reference(channels_first(images))["out"])
    assert relative_error(model.predict_on_batch(images), expected) <= 1e-4


@pytest.mark.parametrize("name", ["fcn_resnet101", "deeplabv3_resnet101"])
def test_the_deep_ones_have_torchvisions_layers(segmentation, name):
    """Every convolution: its name, kernel, stride, dilation. The arithmetic is resnet50's."""
    with torch.device("meta"):
        reference = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=4)
    expected = {
        path.replace(".", "_").replace("backbone_", "encoder_"): (
            (*layer.kernel_size, layer.in_channels, layer.out_channels),
            layer.stride,
            layer.dilation,
            layer.bias is not None,
        )
        for path, layer in reference.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    }
    model = build_model(name, num_classes=4)
    convolutions = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Conv2D)]
    found = {
        layer.name: (tuple(layer.kernel.shape), layer.strides, layer.dilation_rate, layer.use_bias) for layer in convolutions
    }
    assert found == expected


def test_only_the_auxiliary_head_may_be_left_over(segmentation):
    model = build_model("fcn_resnet50", num_classes=2)
    state = segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=True).state_dict()
    load_torch_weights(model, state)
    kernel = model.get_layer("classifier_4").get_weights()[0]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), state["classifier.4.weight"].numpy())
    with pytest.raises(KsegError, match=r"the model has no place for classifier\.9"):
        load_torch_weights(model, state | {"classifier.9.weight": torch.zeros(1)})
    with pytest.raises(KsegError, match="the checkpoint has no weights for encoder_conv1"):
        load_torch_weights(model, {key: value for key, value in state.items() if key != "backbone.conv1.weight"})


def test_the_backbone_has_stride_8_only():
    with pytest.raises(KsegError, match=r"torchvision_resnet50 cannot have output_stride=16 .* use output_stride=8"):
        build_model("fcn_resnet50", num_classes=2, output_stride=16)
