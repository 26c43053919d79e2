"""The layer-wise decay of learning rates: depths as timm's, and the factor of each variable in the optimizer."""

import keras
import pytest
import tiny_transformers
import torch
from torchvision_ops import declare_torchvision_ops

from kseg.config import OptimizationConfig
from kseg.models.build import build_backbone, build_model
from kseg.models.layer_decay import layer_depths, rate_factors
from kseg.models.pytorch.export import torch_path
from kseg.training.optimizer_config import configure
from kseg.utils.errors import KsegError

pytestmark = pytest.mark.backends("torch")  # which compiles nothing


def timms(backbone):
    """timm's network with the settings of a small backbone, and nothing computed."""
    from timm.models.convnext import ConvNeXt
    from timm.models.swin_transformer import SwinTransformer

    with torch.device("meta"):
        if backbone == "test_convnext":
            return ConvNeXt(depths=tiny_transformers.CONVNEXT.blocks, dims=(8, 16, 32, 64))
        variant = tiny_transformers.SWIN
        return SwinTransformer(depths=variant.blocks, embed_dim=6, num_heads=variant.heads, window_size=variant.window)


@pytest.mark.parity
@pytest.mark.parametrize("backbone", ["test_convnext", "test_swin"])
def test_the_rates_are_timms(backbone):
    declare_torchvision_ops()
    from timm.optim import param_groups_layer_decay

    network = timms(backbone)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = param_groups_layer_decay(network, layer_decay=0.5)
    theirs = {names[id(p)].rpartition(".")[0]: group["lr_scale"] for group in groups for p in group["params"]}
    ours = build_backbone(backbone)
    layers = {id(variable): layer.name for layer in ours.layers for variable in layer.weights}
    factors = zip(ours.trainable_variables, rate_factors(ours, 0.5), strict=True)
    found = {torch_path(layers[id(variable)]).removeprefix("encoder."): factor for variable, factor in factors}
    assert found == {path: theirs[path] for path in found}
    assert len(found) > 30


def test_the_depths_of_segformers_encoder_and_of_the_last_norms():
    depths = layer_depths(
        [
            "encoder_patch_embed1_proj", "encoder_block1_0_attn_q", "encoder_block1_1_mlp_fc1", "encoder_norm1",
            "encoder_patch_embed2_norm", "encoder_block2_0_norm1", "encoder_hidden_states_norms_stage1",
        ]
    )  # fmt: skip
    assert [*depths.values()] == [0, 1, 2, 2, 3, 3, 4]


def test_the_factors_reach_the_optimizer():
    model = build_model("segformer", backbone="test_mit", num_classes=3, decoder_channels=8, form="transformers")
    config = OptimizationConfig(layer_decay=0.5, backbone_lr_multiplier=0.1)
    optimizer = configure(config, model, epochs=1, steps=1)
    paths = [variable.path for variable in model.trainable_variables]
    factors = dict(zip((paths[index] for index in optimizer.backbone), optimizer.backbone_multiplier, strict=True))
    assert factors["encoder_patch_embed1_proj/kernel"] == pytest.approx(0.1 * 0.5**7)
    assert factors["encoder_block4_1_mlp_fc2/kernel"] == pytest.approx(0.1 * 0.5)
    assert not any(path.startswith(("decoder", "segmentation")) for path in factors)
    assert keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)).backbone_multiplier == [*factors.values()]


def test_a_backbone_without_blocks_is_refused():
    model = build_model("fcn32s", backbone="vgg11", num_classes=3, fc_filters=8)
    with pytest.raises(KsegError, match=r"^--layer_decay=0.5: the backbone does not fit: its layers are not in numbered blocks"):
        configure(OptimizationConfig(layer_decay=0.5), model, epochs=1, steps=1)
    with pytest.raises(KsegError, match="--layer_decay=0"):
        OptimizationConfig(layer_decay=0)
