"""Both forms of EfficientNet: against timm's features, and against smp's encoder."""

import keras
import numpy as np
import pytest
import torch
from test_torch_weights import channels_last, randomise, relative_error

from kseg.models.backbones import efficientnet
from kseg.models.build import build_backbone, build_model
from kseg.models.pytorch.load import load_torch_weights
from kseg.utils.errors import KsegError

# smp points to its encoders of timm's form, which are other networks: the ones here are those its users trained.
pytestmark = pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
LEVELS = ("c1", "c2", "c3", "c4", "c5")


@pytest.fixture(scope="module")
def timm(smp):  # smp's fixture makes torchvision importable
    import timm

    return timm


def assert_equal_features(reference, backbone, images, *, skip=0):
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2))[skip:]
    found = backbone.predict_on_batch(images)
    for level, feature in zip(LEVELS, expected, strict=True):
        assert relative_error(found[level], channels_last(feature)) <= 1e-4, level


@pytest.mark.parametrize(("size", "output_stride"), [((64, 96), 8), ((65, 47), 32)])
def test_features_equal_timms(timm, rng, size, output_stride):
    reference = timm.create_model("tf_efficientnet_b0", pretrained=False, features_only=True, output_stride=output_stride)
    backbone = build_backbone("tf_efficientnet_b0", output_stride=output_stride)
    load_torch_weights(backbone, randomise(reference).state_dict())
    assert_equal_features(reference, backbone, rng.normal(size=(1, *size, 3)).astype("float32"))


@pytest.mark.parametrize(("size", "output_stride"), [((64, 96), 16), ((65, 47), 32)])
def test_features_equal_smps(smp, rng, size, output_stride):
    reference = smp.encoders.get_encoder("timm-efficientnet-b0", weights=None, output_stride=output_stride)
    backbone = build_backbone("timm-efficientnet-b0", output_stride=output_stride)
    load_torch_weights(backbone, {f"encoder.{key}": value for key, value in randomise(reference).state_dict().items()})
    assert_equal_features(reference, backbone, rng.normal(size=(1, *size, 3)).astype("float32"), skip=1)


def stage_plan_of(blocks):
    """(stride, first dilation, dilation of the others) of each stage of a torch network; one-block stages say it twice."""
    convs = [[block.conv_dw for block in stage] for stage in blocks]
    return [(stage[0].stride[0], stage[0].dilation[0], stage[-1].dilation[0]) for stage in convs]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilation_is_the_peers(timm, smp, output_stride):
    with torch.device("meta"):
        theirs = timm.create_model("tf_efficientnet_b4", features_only=True, output_stride=output_stride)
        smps = smp.encoders.get_encoder("timm-efficientnet-b4", weights=None, output_stride=output_stride)
    assert efficientnet._stage_plan(efficientnet.FORMS["tf_efficientnet_"], output_stride) == stage_plan_of(theirs.blocks)
    assert efficientnet._stage_plan(efficientnet.FORMS["timm-efficientnet-"], output_stride) == stage_plan_of(smps.blocks)


@pytest.mark.parametrize("size", efficientnet.SCALING)
def test_scaling_is_the_peers(smp, size):
    """The table of each size: channels and blocks of every stage, and smp's features."""
    with torch.device("meta"):
        reference = smp.encoders.get_encoder(f"timm-efficientnet-{size}", weights=None)
    width, depth = efficientnet.SCALING[size]
    channels = [efficientnet._channels(stage[3], width) for stage in efficientnet.STAGES]
    assert channels == [[*stage[-1].children()][-2].num_features for stage in reference.blocks]
    assert [efficientnet.math.ceil(stage[0] * depth) for stage in efficientnet.STAGES] == [len(s) for s in reference.blocks]
    levels = [channels[stage] for stage in efficientnet.LEVEL_AFTER_STAGE]
    assert [3, efficientnet._channels(efficientnet.STEM, width), *levels] == reference.out_channels


def test_b4_has_the_published_channels(timm):
    """In smp c1 is the stem, in timm the first stage."""
    first, stem = (efficientnet._channels(channels, 1.4) for channels in (efficientnet.STAGES[0][3], efficientnet.STEM))
    deeper = [efficientnet._channels(efficientnet.STAGES[stage][3], 1.4) for stage in efficientnet.LEVEL_AFTER_STAGE]
    assert [stem, *deeper] == [48, 32, 56, 160, 448]
    with torch.device("meta"):
        reference = timm.create_model("tf_efficientnet_b4", features_only=True)
    assert [first, *deeper] == reference.feature_info.channels()


def test_a_whole_timm_checkpoint_fits_both_forms_but_for_its_named_head(timm):
    state = timm.create_model("tf_efficientnet_b0", pretrained=False).state_dict()
    for name in ("tf_efficientnet_b0", "timm-efficientnet-b0"):
        backbone = build_backbone(name)
        load_torch_weights(backbone, state)
        kernel = backbone.get_layer("encoder_blocks_6_0_conv_pwl").get_weights()[0]
        np.testing.assert_array_equal(kernel[0, 0].T, state["blocks.6.0.conv_pwl.weight"][:, :, 0, 0].numpy())
    with pytest.raises(KsegError, match="the model has no place for conv_tail; wrong model or backbone"):
        load_torch_weights(backbone, {**state, "conv_tail.weight": np.zeros(3)})


def test_a_whole_smp_model_fits(smp):
    """smp keeps EfficientNet's conv_head and bn2 in its models' checkpoints, where nothing uses them."""
    state = smp.DeepLabV3Plus("timm-efficientnet-b0", encoder_weights=None, classes=3).state_dict()
    assert "encoder.conv_head.weight" in state and "encoder.bn2.weight" in state
    model = build_model("deeplabv3plus", num_classes=3, backbone="timm-efficientnet-b0")
    load_torch_weights(model, state)
    stem = model.get_layer("backbone").get_layer("encoder_conv_stem").get_weights()[0]
    np.testing.assert_array_equal(stem.transpose(3, 2, 0, 1), state["encoder.conv_stem.weight"].numpy())


def test_stochastic_depth_is_smps(smp):
    """Its rates are the peer's; in training it drops whole samples' residuals and scales those that are kept."""
    with torch.device("meta"):
        reference = smp.encoders.get_encoder("timm-efficientnet-b0", weights=None)
    expected = {
        f"encoder_{path.replace('.', '_')}": module.drop_prob
        for path, module in reference.named_modules()
        if type(module).__name__ == "DropPath"
    }
    backbone = build_backbone("timm-efficientnet-b0")
    found = {layer.name: layer.rate for layer in backbone.layers if isinstance(layer, keras.layers.Dropout)}
    used = {name for name in expected if name.replace("drop_path", "add") in {layer.name for layer in backbone.layers}}
    assert found == pytest.approx({name: expected[name] for name in used})
    drop = backbone.get_layer("encoder_blocks_5_3_drop_path")
    kept = keras.ops.convert_to_numpy(drop(np.ones((64, 2, 2, 3), "float32"), training=True)).reshape(64, -1)
    assert (kept == kept[:, :1]).all()
    np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - drop.rate)], rtol=1e-6)
