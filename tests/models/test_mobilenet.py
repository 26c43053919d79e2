"""MobileNetV2 against smp's encoder, and with torchvision's checkpoint."""

import numpy as np
import pytest
import torch
from test_torch_weights import channels_last, randomise, relative_error

from kseg.models.build import build_backbone
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError


@pytest.mark.parametrize(("size", "output_stride"), [((64, 96), 8), ((65, 47), 16), ((65, 47), 32)])
def test_features_equal_smps(smp, rng, size, output_stride):
    reference = randomise(smp.encoders.get_encoder("mobilenet_v2", weights=None, output_stride=output_stride))
    backbone = build_backbone("mobilenet_v2", output_stride=output_stride)
    load_torch_weights(backbone, {f"encoder.{key}": value for key, value in reference.state_dict().items()})
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        _, *expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = backbone.predict_on_batch(images)
    for level, feature in zip(("c1", "c2", "c3", "c4", "c5"), expected, strict=True):
        assert relative_error(found[level], channels_last(feature)) <= 1e-4, level


def test_torchvisions_checkpoint_fits_but_for_its_classifier(smp):  # smp's fixture makes torchvision importable
    import torchvision

    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    backbone = build_backbone("mobilenet_v2")
    load_torch_weights(backbone, state)
    kernel = backbone.get_layer("encoder_features_18_0").get_weights()[0]
    np.testing.assert_array_equal(kernel[0, 0].T, state["features.18.0.weight"][:, :, 0, 0].numpy())
    with pytest.raises(KsegError, match="the model has no place for conv_head; wrong model or backbone"):
        load_torch_weights(backbone, {**state, "conv_head.weight": np.zeros(3)})  # which only EfficientNet leaves out
