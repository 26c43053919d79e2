"""EfficientNet's dilation and stochastic depth, in both forms. tests/models/test_models.py compares the numbers of every size."""

import keras
import numpy as np
import pytest
import torch

from kseg.models.backbones import efficientnet
from kseg.models.backbones.inverted_residual import stage_plan
from kseg.models.build import build_backbone

# smp points to its encoders of timm's form, which are other networks: the ones here are those its users trained.
pytestmark = pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")


def stage_plan_of(blocks):
    """(stride, first dilation, dilation of the others) of each stage of a torch network; one-block stages say it twice."""
    convs = [[block.conv_dw for block in stage] for stage in blocks]
    return [(stage[0].stride[0], stage[0].dilation[0], stage[-1].dilation[0]) for stage in convs]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("names", [("tf_efficientnet_b4", "timm-efficientnet-b4")])
def test_dilation_is_the_baselines(smp, names, output_stride):
    import timm  # smp's fixture makes torchvision importable

    with torch.device("meta"):
        theirs = timm.create_model(names[0], features_only=True, output_stride=output_stride)
        smps = smp.encoders.get_encoder(names[1], weights=None, output_stride=output_stride)
    strides = [stride for _, _, stride, _ in efficientnet.STAGES]
    for late_dilation, network in ((True, theirs), (False, smps)):
        assert stage_plan(strides, output_stride, late_dilation=late_dilation) == stage_plan_of(network.blocks)


@pytest.mark.parametrize("name", ["timm-efficientnet-b0", "timm-tf_efficientnet_lite1"])
def test_stochastic_depth_is_smps(smp, name):
    """Its rates are smp's; in training it drops whole samples' residuals and scales those that are kept."""
    with torch.device("meta"):
        reference = smp.encoders.get_encoder(name, weights=None)
    expected = {
        f"encoder_{path.replace('.', '_')}": module.drop_prob
        for path, module in reference.named_modules()
        if type(module).__name__ == "DropPath"
    }
    backbone = build_backbone(name)
    found = {layer.name: layer.rate for layer in backbone.layers if isinstance(layer, keras.layers.Dropout)}
    used = {name for name in expected if name.replace("drop_path", "add") in {layer.name for layer in backbone.layers}}
    assert found == pytest.approx({name: expected[name] for name in used})
    drop = backbone.get_layer("encoder_blocks_5_3_drop_path")
    kept = keras.ops.convert_to_numpy(drop(np.ones((64, 2, 2, 3), "float32"), training=True)).reshape(64, -1)
    assert (kept == kept[:, :1]).all()
    np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - drop.rate)], rtol=1e-6)
