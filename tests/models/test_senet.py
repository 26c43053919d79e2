"""SE-ResNeXt against smp's encoder and timm's features."""

import numpy as np
import pytest
import torch
from test_torch_weights import channels_last, randomise, relative_error

from kseg.models.build import build_backbone
from kseg.models.pytorch.load import load_torch_weights

LEVELS = ("c1", "c2", "c3", "c4", "c5")


def features(reference, images):
    with torch.no_grad():
        return [channels_last(x) for x in reference(torch.from_numpy(images).permute(0, 3, 1, 2))]


@pytest.mark.parametrize(("size", "output_stride"), [((64, 96), 32), ((65, 47), 16)])
def test_features_equal_smps(smp, rng, size, output_stride):
    reference = randomise(smp.encoders.get_encoder("se_resnext50_32x4d", weights=None, output_stride=output_stride))
    backbone = build_backbone("se_resnext50_32x4d", output_stride=output_stride)
    load_torch_weights(backbone, {f"encoder.{key}": value for key, value in reference.state_dict().items()})
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    found = backbone.predict_on_batch(images)
    for level, expected in zip(LEVELS, features(reference, images)[1:], strict=True):
        assert relative_error(found[level], expected) <= 1e-4, level


def test_features_equal_timms(smp, rng):
    import timm

    reference = randomise(timm.create_model("legacy_seresnext50_32x4d", pretrained=False))
    backbone = build_backbone("legacy_seresnext50_32x4d")
    load_torch_weights(backbone, reference.state_dict())  # with the classifier, which is left out
    images = rng.normal(size=(1, 65, 47, 3)).astype("float32")
    found = backbone.predict_on_batch(images)
    with torch.no_grad():
        _, expected = reference.forward_intermediates(torch.from_numpy(images).permute(0, 3, 1, 2))
    for level, feature in zip(LEVELS, expected, strict=True):
        assert relative_error(found[level], channels_last(feature)) <= 1e-4, level


def test_101_has_smps_keys_and_shapes(smp):
    reference = smp.encoders.get_encoder("se_resnext101_32x4d", weights=None)
    state = {key: np.asarray(value) for key, value in reference.state_dict().items()}
    load_torch_weights(build_backbone("legacy_seresnext101_32x4d", output_stride=8), state)
