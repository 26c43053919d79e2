"""MobileOne: other than three channels, and its fused form. tests/models/test_models.py compares the numbers of both forms."""

import re

import keras
import numpy as np
import pytest
import torch
from baselines import randomise

import kseg
from kseg.models.build import build_backbone
from kseg.models.pytorch.load import load_backbone_weights
from kseg.models.smp_config import smp_encoder
from kseg.sharing.export.serving import serving_model
from kseg.utils.errors import KsegError

on_torch = pytest.mark.backends("torch")  # compiles nothing


@pytest.mark.slow
def test_both_convolutions_of_the_image_are_adapted_as_smps(smp):
    reference = randomise(smp.encoders.get_encoder("mobileone_s1", weights=None))
    backbone = build_backbone("mobileone_s1", input_shape=(None, None, 4))
    load_backbone_weights(backbone, reference.state_dict())
    reference.set_in_channels(4, pretrained=True)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 4)).astype("float32")
    with torch.inference_mode():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2))[1].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(backbone.predict_on_batch(images)["c1"], expected, rtol=1e-4, atol=1e-4)


@on_torch
@pytest.mark.slow
def test_a_model_is_fused_as_by_smp(smp, tmp_path):
    """PSPNet ends at c3: the fused form of the deeper stages is not built."""
    from segmentation_models_pytorch.encoders.mobileone import reparameterize_model

    reference = randomise(smp.PSPNet("mobileone_s0", encoder_weights=None, classes=3))
    model = kseg.build_model("pspnet", num_classes=3, backbone="mobileone_s0", normalization=None)
    kseg.load_torch_weights(model, reference.state_dict())
    fused = kseg.reparameterize_model(model)
    assert not [weight.path for weight in fused.weights if "_rbr_" in weight.path]
    images = np.random.default_rng(0).normal(size=(1, 65, 97, 3)).astype("float32")
    expected = model.predict_on_batch(images)
    np.testing.assert_allclose(fused.predict_on_batch(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    serving = serving_model(model, "float32")
    assert [weight.path for weight in serving.weights] == [weight.path for weight in fused.weights]

    theirs = reparameterize_model(reference)
    for checkpoint in (reference.state_dict(), theirs.state_dict()):
        other = kseg.build_model("pspnet", num_classes=3, backbone="mobileone_s0_fused", normalization=None)
        assert all("stage3" in path or "stage4" in path for path in kseg.load_torch_weights(other, checkpoint).left_out)
        np.testing.assert_allclose(other.predict_on_batch(images), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    state = {key: torch.from_numpy(value) for key, value in kseg.export_torch_weights(fused).items()}
    theirs.load_state_dict(state, strict=True)
    fused.save(tmp_path / "fused.keras")
    assert kseg.load_model(tmp_path / "fused.keras").get_layer("backbone").unread.keys() >= {"encoder_stage4_0_reparam_conv"}
    with pytest.raises(KsegError, match="in its fused form"):
        kseg.load_torch_weights(model, theirs.state_dict())


@on_torch
@pytest.mark.slow
def test_a_dilated_backbone_keeps_its_dilation():
    backbone = build_backbone("mobileone_s0", output_stride=8)
    fused = kseg.reparameterize_model(backbone)
    images = np.random.default_rng(0).normal(size=(1, 33, 47, 3)).astype("float32")
    expected, found = backbone.predict_on_batch(images), fused.predict_on_batch(images)
    for level, value in expected.items():
        np.testing.assert_allclose(found[level], value, rtol=0, atol=1e-4 * np.abs(value).max())
    assert kseg.reparameterize_model(fused) is fused


def test_what_does_not_fit():
    model = build_backbone("mobileone_s0_fused")
    kernel = np.zeros((48, 3, 3, 3), "float32")
    with pytest.raises(KsegError, match=re.escape("encoder.stage0: its branches do not fit together")):
        kseg.load_torch_weights(model, {"encoder.stage0.rbr_scale.conv.weight": kernel})
    with pytest.raises(KsegError, match="has no such encoder"):
        smp_encoder("mobileone_s0_fused")


def test_other_models_stay_as_they_are():
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.Conv2D(2, 1)(images))
    assert kseg.reparameterize_model(model) is model
