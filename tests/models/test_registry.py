"""Every registered model and backbone: names, docs and errors. tests/models/test_models.py compares their numbers."""

import cases
import pytest

from kseg.models.backbones.registry import BACKBONES
from kseg.models.build import build_model
from kseg.models.registry import MODELS
from kseg.utils.errors import KsegError


@pytest.mark.parametrize("name", cases.ARCHITECTURES)
def test_a_model_is_documented_and_has_a_backbone_that_fits(name):
    entry = MODELS[name]
    assert entry.build.__doc__
    assert entry.info["backbone"] in BACKBONES
    assert entry.info["output_stride"] in BACKBONES[entry.info["backbone"]].info["output_strides"]


@pytest.mark.parametrize("name", cases.BACKBONES)
def test_a_backbone_refuses_a_stride_it_has_not(name):
    with pytest.raises(KsegError, match=f"backbone {name} cannot have output_stride=64"):
        build_model("deeplabv3plus", num_classes=2, backbone=name, output_stride=64)


def test_every_model_and_backbone_of_the_reference_experiments_is_there():
    assert {"fcn16s", "segnet", "deeplabv3", "deeplabv3plus", "unet", "deeplabv3_resnet50", "deeplabv3_resnet101"} <= set(
        cases.ARCHITECTURES
    )
    wanted = {"vgg16", "vgg16_bn", "resnet50", "resnet101", "resnext50_32x4d", "se_resnext50_32x4d"}
    assert wanted | {"timm-efficientnet-b0", "timm-efficientnet-b4", "tf_efficientnet_b0"} <= set(cases.BACKBONES)
