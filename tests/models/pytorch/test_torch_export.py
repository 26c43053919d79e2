"""From PyTorch to kseg and back: the same bytes, under keys that PyTorch's modules take with strict=True."""

import re

import keras
import numpy as np
import pytest
import torch
from baselines import baseline_name, randomise, smp_encoder
from cases import BACKBONES, LARGE_BACKBONES

from kseg.models.backbones.keras_cv import _without_values
from kseg.models.build import build_backbone, build_model
from kseg.models.pytorch.export import FLATTENED, export_torch_weights, torch_path
from kseg.models.pytorch.load import load_torch_weights
from kseg.models.saving import load_model
from kseg.utils.errors import KsegError

FILLED_IN = ("num_batches_tracked", "encoder.conv_head.weight", "encoder.bn2.", "encoder._conv_head.weight", "encoder._bn1.")


def assert_same_bytes(model: keras.Model, reference: torch.nn.Module) -> None:
    """reference -> model -> a state_dict that reference loads strictly, with every parameter as it was."""
    before = {key: value.clone() for key, value in reference.state_dict().items()}
    load_torch_weights(model, before)
    state = export_torch_weights(model)
    reference.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    for key, value in reference.state_dict().items():
        assert value.dtype == before[key].dtype, key
        if not any(part in key for part in FILLED_IN):
            assert value.numpy().tobytes() == before[key].numpy().tobytes(), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("deeplabv3plus", "resnext50_32x4d"),  # separable and grouped convolutions
        ("fpn", "timm-efficientnet-b0"),  # group norm, depthwise convolutions; an encoder with parts that are unused
        ("unet", "vgg11_bn"),
        ("fpn", "tu-tf_efficientnet_b0"),
        ("fpn", "timm-tf_efficientnet_lite2"),  # the unused head has not four times the channels
        ("unet", "tu-tf_efficientnet_lite0"),
        ("unet", "mobilenet_v2"),
        ("deeplabv3", "se_resnext50_32x4d"),
        ("unetplusplus", "resnet18"),
        ("manet", "resnet18"),
        ("linknet", "resnet18"),
        ("pan", "resnet18"),
        ("upernet", "resnet18"),  # layer norm
        ("segformer", "resnet18"),  # linear layers
        ("unet", "densenet121"),
        ("pspnet", "tu-regnety_002"),  # of a timm encoder, smp has only the stages that are read
        ("unet", "tu-resnet18d"),
        ("unet", "xception"),
        ("deeplabv3plus", "mobileone_s0"),
        ("segformer", "mit_b0"),
        ("upernet", "tu-convnext_atto"),  # layer scale
        ("pspnet", "tu-convnextv2_tiny"),  # global response normalisation; linear layers in the encoder
        ("unetplusplus", "efficientnet-b0"),
        ("manet", "tu-tf_efficientnetv2_b0"),
        ("unet", "tu-mobilenetv3_small_100"),
        ("fpn", "timm-mobilenetv3_large_100"),
        ("unet", "tu-hrnet_w18_small"),
    ],
)
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
def test_smps_models_come_back_to_the_byte(smp, model, backbone):
    reference = randomise(getattr(smp, baseline_name("smp", model))(backbone, encoder_weights=None, classes=3))
    # Reading fills every variable: initial values, which take longest, need not be computed.
    built = _without_values(lambda: build_model(model, num_classes=3, backbone=backbone))
    assert_same_bytes(built, reference)


@pytest.mark.slow
def test_stages_that_the_decoder_does_not_read_are_not_built(smp, tmp_path):
    """smp has them: a checkpoint loads with or without them, and the way back fills them in."""
    reference = randomise(smp.PSPNet("resnet18", encoder_weights=None, classes=3))
    model = build_model("pspnet", num_classes=3, backbone="resnet18", normalization=None)
    assert not [layer.name for layer in model.get_layer("backbone").layers if "layer3" in layer.name or "layer4" in layer.name]
    state = reference.state_dict()
    found = load_torch_weights(model, state)
    assert {"encoder.layer3.0.conv1", "encoder.layer4.1.bn2"} <= set(found.left_out)
    shorter = {key: value for key, value in state.items() if not key.startswith(("encoder.layer3", "encoder.layer4"))}
    assert load_torch_weights(model, shorter).left_out == ()
    with pytest.raises(KsegError, match=r"has no place for encoder\.layer5\.0\.conv1"):
        load_torch_weights(model, {**state, "encoder.layer5.0.conv1.weight": torch.zeros(1)})
    model.save(tmp_path / "model.keras")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = reference(images)
        for source in (model, load_model(tmp_path / "model.keras")):
            weights = {key: torch.from_numpy(array) for key, array in export_torch_weights(source).items()}
            other = smp.PSPNet("resnet18", encoder_weights=None, classes=3).eval()
            other.load_state_dict(weights, strict=True)
            assert torch.equal(other(images), before)


@pytest.mark.parametrize("name", ["timm-tf_efficientnet_lite0", "tf_efficientnet_lite0"])
def test_a_backbone_of_a_file_of_an_earlier_version_has_no_name(name):
    model = build_model("pspnet", num_classes=3, backbone=name)
    expected = set(export_torch_weights(model))
    model.get_layer("backbone").registered_name = None
    assert set(export_torch_weights(model)) == expected


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_torchvisions_models_come_back_to_the_byte(smp, name):
    from torchvision.models import segmentation

    reference = randomise(getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3))
    assert_same_bytes(_without_values(lambda: build_model(name, num_classes=3)), reference)


def test_timms_backbone_comes_back_to_the_byte(smp):
    import timm

    assert_same_bytes(
        _without_values(lambda: build_backbone("resnet18")), randomise(timm.create_model("resnet18", num_classes=0))
    )


@pytest.mark.slow
def test_a_transposed_convolution_comes_back_to_the_byte(rng):
    model = build_model("fcn16s", num_classes=3, backbone="vgg11", fc_filters=8)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2DTranspose):
            layer.set_weights([rng.normal(size=layer.kernel.shape).astype("float32")])
    before = model.get_weights()
    state = export_torch_weights(model)
    kernel = model.get_layer("decoder_upscore2").get_weights()[0]
    np.testing.assert_array_equal(state["decoder.upscore2.weight"], kernel.transpose(3, 2, 0, 1))  # torch: [in, out, h, w]
    model.set_weights([np.zeros_like(weight) for weight in before])
    load_torch_weights(model, state)
    assert [weight.tobytes() for weight in model.get_weights()] == [weight.tobytes() for weight in before]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("keras_cv/") and name not in LARGE_BACKBONES])
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
def test_every_layer_has_smps_module_path(smp, name):
    with torch.device("cpu" if name.startswith("mit_") else "meta"):  # smp computes the drop rates of MiT
        reference = smp_encoder(name)
    backbone = _without_values(lambda: build_backbone(name, output_stride=8 if "torchvision" in name else 32))
    ours = {torch_path(layer.name).removeprefix("encoder.") for layer in backbone.layers if layer.weights}
    theirs = {key.removeprefix("model.").rpartition(".")[0] for key in reference.state_dict()}
    theirs = {re.sub(rf"^({'|'.join(FLATTENED)})_", r"\1.", path) for path in theirs}
    unused = {"conv_head", "bn2", "_conv_head", "_bn1"}
    assert ours - unused == theirs - unused


@pytest.mark.parametrize("model", ["unet", "fpn", "deeplabv3", "deeplabv3plus"])
def test_every_decoder_layer_has_smps_module_path(smp, model):
    with torch.device("meta"):
        reference = getattr(smp, baseline_name("smp", model))("resnet18", encoder_weights=None)
    built = _without_values(lambda: build_model(model, num_classes=1, backbone="resnet18"))
    layers = [layer for layer in built._flatten_layers() if layer.weights and not hasattr(layer, "layers")]
    assert {torch_path(layer.name) for layer in layers} == {key.rpartition(".")[0] for key in reference.state_dict()}


@pytest.mark.slow
def test_keras_cvs_backbones_cannot_go():
    model = _without_values(lambda: build_model("fpn", num_classes=2, backbone="keras_cv/resnet18"))
    with pytest.raises(KsegError, match="has no PyTorch module; only models on torch-layout backbones"):
        export_torch_weights(model)
