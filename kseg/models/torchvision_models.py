"""torchvision's segmentation models under torchvision's names, so that its checkpoints (classes of Pascal VOC) can be read.

Their auxiliary head, which only training uses, is not built; reading a checkpoint leaves its weights out.
"""

from typing import Any

import keras

from kseg.models import register_model
from kseg.models.layers import Conv2D, aspp, conv_bn_relu, torch_uniform


@register_model(backbone="torchvision_resnet50", output_stride=8, levels=("c5",), align_corners=False)
def fcn_resnet50(features: dict[str, Any], *, num_classes: int, dropout: float = 0.1) -> Any:
    """FCN (Long et al. 2015, arXiv:1411.4038) without skip connections, laid out as torchvision's fcn_resnet50.

    features: c5 [B, H/8, W/8, C]. dropout: before the last convolution. Returns logits [B, H/8, W/8, num_classes].
    """
    x = features["c5"]
    x = conv_bn_relu(x, x.shape[-1] // 4, name="classifier")
    x = keras.layers.Dropout(dropout, name="classifier_3")(x)
    return _logits(x, num_classes)


@register_model(backbone="torchvision_resnet101", output_stride=8, levels=("c5",), align_corners=False)
def fcn_resnet101(features: dict[str, Any], *, num_classes: int, dropout: float = 0.1) -> Any:
    """fcn_resnet50 on ResNet-101, laid out as torchvision's fcn_resnet101."""
    return fcn_resnet50(features, num_classes=num_classes, dropout=dropout)


@register_model(backbone="torchvision_resnet50", output_stride=8, levels=("c5",), align_corners=False)
def deeplabv3_resnet50(
    features: dict[str, Any], *, num_classes: int, dilation_rates: tuple[int, ...] = (12, 24, 36), dropout: float = 0.5
) -> Any:
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587), laid out as torchvision's deeplabv3_resnet50.

    features: c5 [B, H/8, W/8, C]. dilation_rates: of the ASPP branches. dropout: of the fused context.
    Returns logits [B, H/8, W/8, num_classes].
    """
    x = aspp(features["c5"], dilation_rates=dilation_rates, separable=False, dropout=dropout, name="classifier_0")
    return _logits(conv_bn_relu(x, 256, name="classifier", first=1), num_classes)


@register_model(backbone="torchvision_resnet101", output_stride=8, levels=("c5",), align_corners=False)
def deeplabv3_resnet101(
    features: dict[str, Any], *, num_classes: int, dilation_rates: tuple[int, ...] = (12, 24, 36), dropout: float = 0.5
) -> Any:
    """deeplabv3_resnet50 on ResNet-101, laid out as torchvision's deeplabv3_resnet101."""
    return deeplabv3_resnet50(features, num_classes=num_classes, dilation_rates=dilation_rates, dropout=dropout)


def _logits(x: Any, num_classes: int) -> Any:
    initializer = torch_uniform(x.shape[-1])
    return Conv2D(num_classes, 1, kernel_initializer=initializer, bias_initializer=initializer, name="classifier_4")(x)
