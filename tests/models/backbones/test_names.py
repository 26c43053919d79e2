"""Names of backbones in other libraries, and smp's `tu-` names of timm's networks."""

import pytest
from cases import BACKBONES

import kseg
from kseg.config import DataConfig, TrainConfig
from kseg.models.backbone import Backbone
from kseg.models.backbones.registry import find_backbone, name_in
from kseg.models.build import build_backbone
from kseg.models.model_info import ModelInfo
from kseg.models.smp_config import smp_config, smp_info
from kseg.training.initial_weights import settle_weights
from kseg.training.setup import settle_config
from kseg.utils.errors import KsegError

EXPECTED = {
    ("tu-convnext_tiny", 8): "convnext_tiny",
    ("tu-hrnet_w18", 32): "hrnet_w18",
    ("tu-legacy_seresnet50", 32): "legacy_seresnet50",
    ("tu-mobilenetv3_large_100", 16): "mobilenetv3_large_100",
    ("tu-regnety_002", 16): "regnety_002",
    ("tu-resnet18d", 8): "resnet18d",
    ("tu-resnet50", 32): "resnet50",
    ("tu-resnet50", 8): "torchvision_resnet50",  # dilated as timm's
    ("tu-tf_efficientnet_b0", 16): "tf_efficientnet_b0",
    ("tu-vgg11_bn", 32): "vgg11_bn",
}


def test_every_name_is_the_librarys(smp):
    import timm
    from torchvision.models import segmentation

    for name in BACKBONES:
        theirs, timms, torchvisions = (name_in(library, name) for library in ("smp", "timm", "torchvision"))
        assert theirs is None or theirs in smp.encoders.encoders or timm.is_model(theirs.removeprefix("tu-")), name
        assert timms is None or timm.is_model(timms), name
        assert torchvisions is None or hasattr(segmentation, f"fcn_{torchvisions}"), name


@pytest.mark.parametrize(("name", "stride"), EXPECTED)
def test_smps_names_of_timms_networks(name, stride):
    assert find_backbone(name, stride) == EXPECTED[name, stride]


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("tu-resnet50", 16, "with output_stride=16 it computes other numbers than kseg's resnet50"),
        ("tu-densenet121", 32, "kseg has only smp's densenet121, and timm's network of this name is another"),
        ("tu-xception", 32, "kseg has only smp's xception"),
        ("tu-convnext_tinny", 32, "unknown backbone 'tu-convnext_tinny'; did you mean tu-convnext_tiny"),
        ("tu-hrnet_w18", 16, r"backbone hrnet_w18 cannot have output_stride=16 \(its layers cannot be dilated\)"),
    ],
)
def test_a_name_of_other_numbers_is_refused(name, stride, message):
    with pytest.raises(KsegError, match=message):
        build_backbone(name, output_stride=stride)
    with pytest.raises(KsegError, match=message):
        kseg.Segmenter("deeplabv3plus", class_names=["a", "b"], backbone=name, output_stride=stride)


def test_runs_and_files_have_the_registered_name(tmp_path):
    config = TrainConfig(data=DataConfig("coco", "d"), model="unet", backbone="tu-regnety_002")
    settled = settle_weights(config)
    assert (settled.backbone, settled.backbone_weights) == ("regnety_002", "imagenet")
    (tmp_path / "config.json").write_text(settled.to_json(), encoding="utf-8")
    again = TrainConfig(run_dir=str(tmp_path), resume=True, backbone="tu-regnety_002")
    assert settle_config(again, {"run_dir", "resume", "backbone"})[0].backbone == "regnety_002"
    assert ModelInfo("unet", ("a", "b"), (64, 64), backbone="tu-vgg11").backbone == "vgg11"
    backbone = build_backbone("tu-resnet18d")
    assert Backbone.from_config(backbone.get_config()).registered_name == "resnet18d"
    assert backbone.up_to("c2").registered_name == "resnet18d"


@pytest.mark.parametrize(
    ("encoder", "backbone", "back"),
    [
        ("tu-hrnet_w18_small.gluon_in1k", "hrnet_w18_small", "tu-hrnet_w18_small"),
        ("tu-resnet34", "resnet34", "resnet34"),
        ("se_resnet50", "se_resnet50", "se_resnet50"),
        ("timm-efficientnet-b0", "timm-efficientnet-b0", "timm-efficientnet-b0"),
        ("timm-regnetx_002", "timm-regnetx_002", "tu-regnetx_002"),
    ],
)
def test_encoders_of_smps_folders(encoder, backbone, back):
    info = smp_info({"_model_class": "Unet", "encoder_name": encoder})
    assert info.backbone == backbone
    assert smp_config(info, binary=False)["encoder_name"] == back


def test_an_encoder_of_smps_folder_that_computes_other_numbers_is_refused():
    with pytest.raises(KsegError, match="has smp's encoder 'tu-resnet50': backbone tu-resnet50: with output_stride=16"):
        smp_info({"_model_class": "DeepLabV3Plus", "encoder_name": "tu-resnet50"})
    info = smp_info({"_model_class": "DeepLabV3", "encoder_name": "tu-resnet50", "encoder_output_stride": 8})
    assert info.backbone == "torchvision_resnet50"
    with pytest.raises(KsegError, match="has smp's encoder 'keras_cv/resnet18', which kseg does not have"):
        smp_info({"_model_class": "Unet", "encoder_name": "keras_cv/resnet18"})
    with pytest.raises(KsegError, match="keras_cv/resnet18: segmentation_models_pytorch has no such encoder"):
        smp_config(ModelInfo("unet", ("a", "b"), (64, 64), backbone="keras_cv/resnet18"), binary=False)
