"""torchvision's segmentation models under torchvision's names, so that its checkpoints (classes of Pascal VOC) can be read.

With auxiliary=True they also have torchvision's auxiliary head on c4, which training adds to the loss; without it, reading a
checkpoint leaves its weights out.
"""

from typing import Any

import keras

from kseg.models import register_model
from kseg.models.layers import Conv2D, aspp, conv_bn_relu, torch_uniform


@register_model(backbone="torchvision_resnet50", output_stride=8, levels=("c4", "c5"), align_corners=False)
def fcn_resnet50(features: dict[str, Any], *, num_classes: int, dropout: float = 0.1, auxiliary: bool = False) -> Any:
    """FCN (Long et al. 2015, arXiv:1411.4038) without skip connections, laid out as torchvision's fcn_resnet50.

    features: c4 and c5 [B, H/8, W/8, C]. dropout: before the last convolution. auxiliary: the same head once more, on c4.
    Returns logits [B, H/8, W/8, num_classes], or {"logits": ..., "auxiliary": ...}.
    """
    logits = _fcn_head(features["c5"], num_classes, dropout, "classifier")
    return _with_auxiliary(logits, features, num_classes) if auxiliary else logits


@register_model(backbone="torchvision_resnet101", output_stride=8, levels=("c4", "c5"), align_corners=False)
def fcn_resnet101(features: dict[str, Any], *, num_classes: int, dropout: float = 0.1, auxiliary: bool = False) -> Any:
    """fcn_resnet50 on ResNet-101, laid out as torchvision's fcn_resnet101."""
    return fcn_resnet50(features, num_classes=num_classes, dropout=dropout, auxiliary=auxiliary)


@register_model(backbone="torchvision_resnet50", output_stride=8, levels=("c4", "c5"), align_corners=False)
def deeplabv3_resnet50(
    features: dict[str, Any],
    *,
    num_classes: int,
    dilation_rates: tuple[int, ...] = (12, 24, 36),
    dropout: float = 0.5,
    auxiliary: bool = False,
) -> Any:
    """DeepLabV3 (Chen et al. 2017, arXiv:1706.05587), laid out as torchvision's deeplabv3_resnet50.

    features: c4 and c5 [B, H/8, W/8, C]. dilation_rates: of the ASPP branches. dropout: of the fused context.
    auxiliary: fcn_resnet50's head on c4, too.
    Returns logits [B, H/8, W/8, num_classes], or {"logits": ..., "auxiliary": ...}.
    """
    x = aspp(features["c5"], dilation_rates=dilation_rates, separable=False, dropout=dropout, name="classifier_0")
    logits = _logits(conv_bn_relu(x, 256, name="classifier", first=1), num_classes, "classifier_4")
    return _with_auxiliary(logits, features, num_classes) if auxiliary else logits


@register_model(backbone="torchvision_resnet101", output_stride=8, levels=("c4", "c5"), align_corners=False)
def deeplabv3_resnet101(
    features: dict[str, Any],
    *,
    num_classes: int,
    dilation_rates: tuple[int, ...] = (12, 24, 36),
    dropout: float = 0.5,
    auxiliary: bool = False,
) -> Any:
    """deeplabv3_resnet50 on ResNet-101, laid out as torchvision's deeplabv3_resnet101."""
    options = {"dilation_rates": dilation_rates, "dropout": dropout, "auxiliary": auxiliary}
    return deeplabv3_resnet50(features, num_classes=num_classes, **options)


def _with_auxiliary(logits: Any, features: dict[str, Any], num_classes: int) -> dict[str, Any]:
    return {"logits": logits, "auxiliary": _fcn_head(features["c4"], num_classes, 0.1, "aux_classifier")}


def _fcn_head(x: Any, num_classes: int, dropout: float, name: str) -> Any:
    x = conv_bn_relu(x, x.shape[-1] // 4, name=name)
    x = keras.layers.Dropout(dropout, name=f"{name}_3")(x)
    return _logits(x, num_classes, f"{name}_4")


def _logits(x: Any, num_classes: int, name: str) -> Any:
    initializer = torch_uniform(x.shape[-1])
    return Conv2D(num_classes, 1, kernel_initializer=initializer, bias_initializer=initializer, name=name)(x)
