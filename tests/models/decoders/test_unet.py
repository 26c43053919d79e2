"""U-Net's centre block, which smp gives it on VGG. tests/models/test_models.py compares whole models."""

import keras
import numpy as np
import pytest
import torch
from baselines import randomise
from parity import channels_first, channels_last, relative_error

from kseg.models.build import build_model
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError


def test_vggs_centre_block_equals_smps_and_is_saved(smp, rng, tmp_path):
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    channels = (16, 8, 12, 20, 24, 28)
    decoder = UnetDecoder(channels, (32, 24, 16, 12, 8), add_center_block=True)
    reference = randomise(torch.nn.ModuleDict({"decoder": decoder, "segmentation_head": smp.base.SegmentationHead(8, 3)}))
    levels = ["c0", "c1", "c2", "c3", "c4", "c5"]
    features = {level: keras.Input((None, None, n), name=level) for level, n in zip(levels, channels, strict=True)}
    features["images"] = keras.Input((None, None, 3), name="images")
    model = keras.Model(features, MODELS["unet"].build(features, num_classes=3, decoder_channels=(32, 24, 16, 12, 8)))
    load_torch_weights(model, reference.state_dict())

    sizes = [(64, 70), (32, 35), (16, 17), (8, 8), (4, 4), (2, 2)]  # VGG's pools round down
    values = {
        level: rng.normal(size=(1, *size, n)).astype("float32") for level, size, n in zip(levels, sizes, channels, strict=True)
    }
    with torch.no_grad():
        expected = reference["segmentation_head"](decoder([channels_first(values[level]) for level in levels]))
    found = model.predict_on_batch({**values, "images": np.zeros((1, 64, 70, 3), "float32")})
    assert relative_error(found, channels_last(expected)) <= 1e-4
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch({**values, "images": np.zeros((1, 64, 70, 3), "float32")}), found)


@pytest.mark.slow
def test_decoder_channels_must_be_five():
    with pytest.raises(KsegError, match="decoder_channels must be 5 numbers, not 4"):
        build_model("unet", num_classes=2, backbone="resnet18", decoder_channels=(64, 32, 16, 8))
