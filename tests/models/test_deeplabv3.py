"""DeepLabV3 as a whole against smp's."""

import numpy as np
import pytest
import torch
from parity import channels_first, channels_last, randomise, relative_error

from kseg.models.build import build_model
from kseg.models.pytorch.load import load_torch_weights


@pytest.fixture(scope="module")
def models(smp):
    """smp's model and ours by output stride; built once each."""
    built = {}

    def get(output_stride):
        if output_stride not in built:
            reference = smp.DeepLabV3("resnet18", encoder_weights=None, encoder_output_stride=output_stride, classes=4)
            model = build_model("deeplabv3", num_classes=4, backbone="resnet18", output_stride=output_stride, normalization=None)
            load_torch_weights(model, randomise(reference).state_dict())
            built[output_stride] = reference, model
        return built[output_stride]

    return get


@pytest.mark.parametrize(("output_stride", "size"), [(8, (64, 96)), (8, (40, 72)), (16, (64, 96))])
def test_logits_equal_smps(models, rng, output_stride, size):
    reference, model = models(output_stride)
    images = rng.normal(size=(1, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = channels_last(reference(channels_first(images)))
    assert relative_error(model.predict_on_batch(images), expected) <= 1e-4


def test_odd_sizes_which_smp_refuses(models, rng):
    reference, model = models(8)
    images = rng.normal(size=(1, 65, 33, 3)).astype("float32")
    logits = model.predict_on_batch(images)
    assert logits.shape == (1, 65, 33, 4)
    with torch.no_grad():  # smp's parts without its check and with its fixed factor replaced by the size
        x = channels_first(images)
        coarse = reference.segmentation_head[0](reference.decoder(reference.encoder(x)))
        expected = torch.nn.functional.interpolate(coarse, size=(65, 33), mode="bilinear", align_corners=True)
    assert relative_error(logits, channels_last(expected)) <= 1e-4
    assert np.isfinite(logits).all()


def test_its_own_output_stride_and_dilation_rates():
    model = build_model("deeplabv3", num_classes=2, backbone="resnet18", input_shape=(64, 96, 3))
    assert model.get_layer("decoder_relu").output.shape == (None, 8, 12, 256)
    rates = [model.get_layer(f"decoder_aspp_convs_{i}_0").dilation_rate for i in range(4)]
    assert rates == [(1, 1), (12, 12), (24, 24), (36, 36)]  # small pictures cannot tell the larger ones apart
