"""MobileOne with other than three channels. tests/models/test_models.py compares the numbers."""

import numpy as np
import torch
from baselines import randomise

from kseg.models.build import build_backbone
from kseg.models.pytorch.load import load_backbone_weights


def test_both_convolutions_of_the_image_are_adapted_as_smps(smp):
    reference = randomise(smp.encoders.get_encoder("mobileone_s1", weights=None))
    backbone = build_backbone("mobileone_s1", input_shape=(None, None, 4))
    load_backbone_weights(backbone, reference.state_dict())
    reference.set_in_channels(4, pretrained=True)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 4)).astype("float32")
    with torch.inference_mode():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2))[1].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(backbone.predict_on_batch(images)["c1"], expected, rtol=1e-4, atol=1e-4)
