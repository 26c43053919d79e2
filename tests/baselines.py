"""The PyTorch networks that kseg's must equal, with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tiny_transformers
import torch
from torch.nn.functional import interpolate
from torchvision_ops import declare_torchvision_ops

from kseg.models.backbones.registry import name_in

if TYPE_CHECKING:
    from cases import Case

_SMP_MODELS = {
    "unet": "Unet", "unetplusplus": "UnetPlusPlus", "manet": "MAnet", "linknet": "Linknet", "fpn": "FPN", "pspnet": "PSPNet",
    "pan": "PAN", "upernet": "UPerNet", "segformer": "Segformer", "deeplabv3plus": "DeepLabV3Plus", "deeplabv3": "DeepLabV3",
}  # fmt: skip
_SMP_OPTIONS = {
    "output_stride": "encoder_output_stride", "depth": "encoder_depth", "attention": "decoder_attention_type",
    "interpolation": "decoder_interpolation", "norm": "decoder_use_norm", "merge": "decoder_merge_policy",
}  # fmt: skip
"""smp's names of build_model's options. Other options have the same name."""


def baseline_name(library: str, name: str) -> str:
    """Returns the library's name of kseg's architecture or backbone `name`."""
    name = name.removesuffix("_fused")
    if library == "smp" and name in _SMP_MODELS:
        return _SMP_MODELS[name]
    found = name_in(library, name)
    assert found is not None, f"register {name} with names={{{library!r}: ...}}"
    return found


def build_baseline(case: Case, classes: int) -> torch.nn.Module:
    """Builds the case's baseline with random parameters and statistics, in evaluation mode."""
    declare_torchvision_ops()
    torch.manual_seed(0)
    return randomise(_MAKERS[case.library](case, classes))


def _smp(case: Case, classes: int) -> torch.nn.Module:
    import segmentation_models_pytorch as smp

    backbone, stride = baseline_name("smp", case.backbone), case.options.get("output_stride")
    if case.model is None:
        return smp_encoder(case.backbone, stride or 32)
    options = {_SMP_OPTIONS.get(name, name): value for name, value in case.options.items()}
    if options.get("decoder_use_norm") == "none":
        options["decoder_use_norm"] = False
    if case.model == "pspnet":
        options["upsampling"] = 2 ** case.options.get("depth", 3)
    return getattr(smp, baseline_name("smp", case.model))(backbone, encoder_weights=None, classes=classes, **options)


def smp_encoder(name: str, output_stride: int = 32) -> torch.nn.Module:
    """Builds smp's encoder of kseg's name."""
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.encoders.mobileone import reparameterize_model

    encoder = smp.encoders.get_encoder(baseline_name("smp", name), weights=None, output_stride=output_stride)
    return reparameterize_model(encoder) if name.endswith("_fused") else encoder


def _timm(case: Case, classes: int) -> torch.nn.Module:
    import timm

    name = baseline_name("timm", case.backbone)
    if name.startswith("swin"):
        return tiny_transformers.timms_swin(name)
    if not name.startswith("legacy_"):
        return timm.create_model(name, pretrained=False, features_only=True, **case.options)
    network = timm.create_model(name, pretrained=False)  # with a classifier, which kseg leaves out; it has no features_only
    network.forward = lambda x: network.forward_intermediates(x, intermediates_only=True)
    return network


def _torchvision(case: Case, classes: int) -> torch.nn.Module:
    from torchvision.models import segmentation

    name = case.model or f"fcn_{baseline_name('torchvision', case.backbone)}"
    auxiliary = case.options.get("auxiliary", False)
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=classes, aux_loss=auxiliary)
    if case.model:
        return network
    backbone = network.backbone
    forward = backbone.forward
    backbone.forward = lambda x: [forward(x)["out"]]  # c5 is all that torchvision's heads read of these
    return backbone


def _transformers(case: Case, classes: int) -> torch.nn.Module:
    """Gives the logits in the images' size, as their users resize them."""
    channels = case.options.get("decoder_channels", 512)
    network = tiny_transformers.reference(case.backbone, classes=classes, channels=channels)
    return tiny_transformers.with_full_size_logits(network)


def _paper(case: Case, classes: int) -> torch.nn.Module:
    import paper_models

    return paper_models.build(case.model, case.backbone, classes, **case.options)


_MAKERS = {"smp": _smp, "timm": _timm, "torchvision": _torchvision, "transformers": _transformers, "paper": _paper}


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode; random parameters and statistics of every normalisation, so that none of them can be swapped unseen."""
    torch.manual_seed(0)
    for layer in module.modules():
        normalises = isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.GroupNorm, torch.nn.LayerNorm))
        if normalises or type(layer).__name__ == "GlobalResponseNorm":
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(layer.running_var, 0.8, 1.5)
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.bias is not None:
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
        if isinstance(getattr(layer, "gamma", None), torch.nn.Parameter):  # layer scale, which starts at almost 0
            torch.nn.init.uniform_(layer.gamma, 0.5, 1.0)
    for name, parameter in module.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif name.endswith("layer_scale_parameter"):  # of transformers
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
        elif name.startswith("decode_head") and parameter.ndim > 1:  # 0.02 would leave little but the biases
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return module.eval()


def at_any_size(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Runs a DeepLabV3, DeepLabV3Plus or FPN of smp on images of a size that smp refuses.

    Calls the network's parts, with the next level's size where smp scales by a fixed factor.
    """
    decoder, features = network.decoder, network.encoder(images)
    if hasattr(decoder, "seg_blocks"):
        x = _fpn_decoder(decoder, features)
    elif hasattr(decoder, "block1"):
        x = _resize(decoder.aspp(features[-1]), features[2])
        x = decoder.block2(torch.cat([x, decoder.block1(features[2])], dim=1))
    else:
        x = decoder(features)
    return _resize(network.segmentation_head[0](x), images)


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


def _fpn_decoder(decoder: torch.nn.Module, features: list[torch.Tensor]) -> torch.Tensor:
    *_, c2, c3, c4, c5 = features
    pyramid = [decoder.p5(c5)]
    for block, skip in ((decoder.p4, c4), (decoder.p3, c3), (decoder.p2, c2)):
        up = interpolate(pyramid[-1], size=skip.shape[2:], mode=block.interpolation_mode)
        pyramid.append(up + block.skip_conv(skip))
    branches = []
    for i, (x, branch) in enumerate(zip(pyramid, decoder.seg_blocks, strict=True)):
        for j, step in enumerate(branch.block):
            x = step.block(x)
            if i < 3:
                x = _resize(x, (c4, c3, c2)[i + j])
        branches.append(x)
    return decoder.merge(branches)
