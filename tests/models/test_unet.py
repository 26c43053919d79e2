"""U-Net against smp's: whole models, the decoder with a centre block, and the nearest resize against torch's."""

import keras
import numpy as np
import pytest
import torch
from parity import channels_first, channels_last, randomise, relative_error

from kseg.models.build import build_model
from kseg.models.layers import ResizeNearest
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError


@pytest.fixture(scope="module")
def pair(smp):
    reference = randomise(smp.Unet("resnet18", encoder_weights=None, classes=4))
    model = build_model("unet", num_classes=4, backbone="resnet18", normalization=None)
    load_torch_weights(model, reference.state_dict())
    return reference, model


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (71, 34)])
def test_logits_equal_smps(pair, rng, size):
    reference, model = pair
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = channels_last(reference(channels_first(images)))
    assert relative_error(model.predict_on_batch(images), expected) <= 1e-4


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


@pytest.mark.parametrize(
    ("source", "target"), [((2, 3), (4, 6)), ((4, 5), (7, 9)), ((3, 4), (7, 9)), ((5, 5), (5, 13)), ((9, 7), (4, 5))]
)
def test_nearest_resize_and_its_gradient_equal_torchs(rng, source, target):
    x = rng.normal(size=(2, *source, 3)).astype("float32")
    dy = rng.normal(size=(2, *target, 3)).astype("float32")
    torch_x = channels_first(x).requires_grad_()
    expected = torch.nn.functional.interpolate(torch_x, size=target, mode="nearest")
    expected.backward(channels_first(dy))
    layer, reference = ResizeNearest(), np.zeros((2, *target, 1), "float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer([x, reference])), channels_last(expected))
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(lambda x: (layer([x, reference]) * dy).sum())(x)
        np.testing.assert_allclose(gradient, channels_last(torch_x.grad), rtol=1e-5, atol=1e-5)


def test_decoder_channels_must_be_five():
    with pytest.raises(KsegError, match="decoder_channels must be five numbers, not 4"):
        build_model("unet", num_classes=2, backbone="resnet18", decoder_channels=(64, 32, 16, 8))
