"""DeepLabV3's defaults. tests/models/test_models.py compares its numbers."""

import pytest

from kseg.models.build import build_model


@pytest.mark.slow
def test_its_own_output_stride_and_dilation_rates():
    model = build_model("deeplabv3", num_classes=2, backbone="resnet18", input_shape=(64, 96, 3))
    assert model.get_layer("decoder_relu").output.shape == (None, 8, 12, 256)
    rates = [model.get_layer(f"decoder_aspp_convs_{i}_0").dilation_rate for i in range(4)]
    assert rates == [(1, 1), (12, 12), (24, 24), (36, 36)]  # small pictures cannot tell the larger ones apart
