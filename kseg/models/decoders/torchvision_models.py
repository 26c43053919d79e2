"""torchvision's segmentation models under torchvision's names; they load its checkpoints (classes of Pascal VOC).

build_model(auxiliary=True) adds torchvision's auxiliary head to any model. Without it, loading a checkpoint skips
its weights.
"""

from typing import Any

from kseg.models.blocks import aspp, conv_bn_relu, fcn_head, torch_head
from kseg.models.registry import register_model


@register_model(backbone="torchvision_resnet50", output_stride=8, levels=("c5",), align_corners=False)
def fcn_resnet50(features: dict[str, Any], *, num_classes: int, dropout: float = 0.1) -> Any:
    """FCN (Long et al. 2015, arXiv:1411.4038) without skip connections, laid out as torchvision's fcn_resnet50.

    features: c5 [B, H/8, W/8, C]. dropout: before the last convolution. Returns logits [B, H/8, W/8, num_classes].
    """
    return fcn_head(features["c5"], num_classes, dropout=dropout, name="classifier")


@register_model(backbone="torchvision_resnet101", output_stride=8, levels=("c5",), align_corners=False)
def fcn_resnet101(features: dict[str, Any], *, num_classes: int, dropout: float = 0.1) -> Any:
    """fcn_resnet50 on ResNet-101, laid out as torchvision's fcn_resnet101."""
    return fcn_resnet50(features, num_classes=num_classes, dropout=dropout)


@register_model(backbone="torchvision_resnet50", output_stride=8, levels=("c5",), align_corners=False)
def deeplabv3_resnet50(
    features: dict[str, Any],
    *,
    num_classes: int,
    dilation_rates: tuple[int, ...] = (12, 24, 36),
    dropout: float = 0.5,
) -> Any:
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587), laid out as torchvision's deeplabv3_resnet50.

    features: c5 [B, H/8, W/8, C]. dilation_rates: of the ASPP branches. dropout: of the ASPP's output.
    Returns logits [B, H/8, W/8, num_classes].
    """
    x = aspp(features["c5"], dilation_rates=dilation_rates, separable=False, dropout=dropout, name="classifier_0")
    return torch_head(conv_bn_relu(x, 256, name="classifier", first=1), num_classes, name="classifier_4")


@register_model(backbone="torchvision_resnet101", output_stride=8, levels=("c5",), align_corners=False)
def deeplabv3_resnet101(
    features: dict[str, Any],
    *,
    num_classes: int,
    dilation_rates: tuple[int, ...] = (12, 24, 36),
    dropout: float = 0.5,
) -> Any:
    """deeplabv3_resnet50 on ResNet-101, laid out as torchvision's deeplabv3_resnet101."""
    return deeplabv3_resnet50(features, num_classes=num_classes, dilation_rates=dilation_rates, dropout=dropout)
