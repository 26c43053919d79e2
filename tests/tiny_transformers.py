"""Small SegFormer and UPerNet of Hugging Face transformers, and the backbones of kseg's with the same settings.

Importing this file registers test_mit, test_convnext and test_swin.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision_ops import declare_torchvision_ops

from kseg.models.backbones import convnext, mix_transformer, swin

BACKBONES = ("test_mit", "test_convnext", "test_swin")
MIT = mix_transformer.Variant((1, 2, 1, 2), (8, 16, 40, 64))
CONVNEXT = convnext.Size((1, 2, 2, 1), 8)
SWIN = swin.Variant((2, 1, 3, 2), 6, (1, 2, 3, 6), 5)
mix_transformer.register("test_mit", MIT)
convnext.register("test_convnext", CONVNEXT)
swin.register("test_swin", SWIN)
CLASSES, CHANNELS = 5, 24
"""Classes, and channels of the decoder."""
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def model_of(backbone: str) -> str:
    """Returns the name of the model that transformers has on a backbone."""
    return "segformer" if "mit" in backbone else "upernet"


def reference(
    backbone: str, *, classes: int = CLASSES, channels: int = CHANNELS, auxiliary: bool = False, drop_path: float = 0.1
) -> torch.nn.Module:
    """Builds transformers' model with the settings of one of kseg's backbones. auxiliary: UPerNet with an auxiliary head."""
    declare_torchvision_ops()
    import transformers

    if backbone in mix_transformer.VARIANTS:
        mit = mix_transformer.VARIANTS[backbone]
        config = transformers.SegformerConfig(
            depths=[*mit.blocks], hidden_sizes=[*mit.channels], num_attention_heads=[*mix_transformer.HEADS],
            sr_ratios=[*mix_transformer.REDUCTIONS], decoder_hidden_size=channels, num_labels=classes, drop_path_rate=drop_path,
        )  # fmt: skip
        return transformers.SegformerForSemanticSegmentation(config)
    if backbone in swin.VARIANTS:
        variant = swin.VARIANTS[backbone]
        inner = transformers.SwinConfig(
            depths=[*variant.blocks], embed_dim=variant.channels, num_heads=[*variant.heads], window_size=variant.window,
            drop_path_rate=drop_path, out_features=STAGES,
        )  # fmt: skip
    else:
        size = convnext.SIZES[convnext.MEMBERS[backbone][1]]
        sizes = [size.channels * 2**stage for stage in range(4)]
        inner = transformers.ConvNextConfig(
            depths=[*size.blocks], hidden_sizes=sizes, drop_path_rate=drop_path, out_features=STAGES
        )
    config = transformers.UperNetConfig(
        backbone_config=inner, hidden_size=channels, num_labels=classes, use_auxiliary_head=auxiliary
    )
    return transformers.UperNetForSemanticSegmentation(config)


def with_full_size_logits(network: torch.nn.Module) -> torch.nn.Module:
    """Makes a network return its logits in the size of the images, as transformers and its users resize them."""
    forward = network.forward

    def resized(images: torch.Tensor) -> torch.Tensor:
        logits = forward(images).logits
        return torch.nn.functional.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    network.forward = resized
    return network


def timms_swin(name: str = "swin_tiny_patch4_window7_224", **options) -> torch.nn.Module:
    """Builds timm's network for images of any size in multiples of 4, with features [B, C, h, w]. options: of timm's class."""
    declare_torchvision_ops()
    import timm

    network = timm.create_model(name, features_only=True, strict_img_size=False, always_partition=True, **options)
    channels_last = network.forward
    network.forward = lambda x: [y.permute(0, 3, 1, 2) for y in channels_last(x)]
    return network


def saved(network: torch.nn.Module, folder: Path) -> dict[str, np.ndarray]:
    """Saves a network as its users do, and returns the tensors of the file."""
    from safetensors.numpy import load_file

    network.save_pretrained(folder)
    return load_file(folder / "model.safetensors")
