"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s."""

from typing import Any

import keras
import numpy as np

from kseg.models.layers import Conv2D, MaxPooling2D, Resize, register
from kseg.models.registry import register_model


@register_model(backbone="vgg16", output_stride=32, levels=("c5",), align_corners=False)
def fcn32s(features: dict[str, Any], *, num_classes: int, fc_filters: int = 4096, dropout: float = 0.5) -> Any:
    """FCN-32s (Long, Shelhamer and Darrell 2015, arXiv:1411.4038; Shelhamer, Long and Darrell 2017, arXiv:1605.06211).

    features: c5 [B, H/32, W/32, C]. fc_filters: of fc6 (7x7) and fc7 (1x1), VGG's classifier as convolutions. dropout: after
    both. Returns logits [B, H/32, W/32, num_classes].

    Differences from the Caffe original: fc6 pads by 3 ("same"), while Caffe pads the image by 100 and crops the result. Pools
    round sizes down, not up. The last upsampling is build_model's bilinear resize. It repeats the border, where the paper's fixed
    bilinear deconvolution fades to zero.
    """
    return _score_fc(features["c5"], num_classes, fc_filters, dropout)


@register_model(backbone="vgg16", output_stride=32, levels=("c4", "c5"), align_corners=False)
def fcn16s(features: dict[str, Any], *, num_classes: int, fc_filters: int = 4096, dropout: float = 0.5) -> Any:
    """FCN-16s: fcn32s's logits, upsampled by two, plus logits of pool4.

    features: c4 [B, H/16, W/16, D] and c5. pool4 is c4, except on a VGG: there it is the max pool of c3, as c4 is conv5_3.
    The upsampling is a learned transposed 4x4 convolution without bias, bilinear at first. For odd sizes its result is resized to
    the skip's. Skips start at zero, and are not scaled down as in Caffe's "at once" variant.
    Returns logits [B, H/16, W/16, num_classes].
    """
    x = _score_fc(features["c5"], num_classes, fc_filters, dropout)
    return _add_skip(x, _pool(features, 4), upsample="decoder_upscore2", score="decoder_score_pool4")


@register_model(backbone="vgg16", output_stride=32, levels=("c3", "c4", "c5"), align_corners=False)
def fcn8s(features: dict[str, Any], *, num_classes: int, fc_filters: int = 4096, dropout: float = 0.5) -> Any:
    """FCN-8s: fcn16s's logits, upsampled by two, plus logits of pool3 (on a VGG the max pool of c2, else c3).

    features: c3 [B, H/8, W/8, E], c4 and c5. Returns logits [B, H/8, W/8, num_classes].
    """
    x = fcn16s(features, num_classes=num_classes, fc_filters=fc_filters, dropout=dropout)
    return _add_skip(x, _pool(features, 3), upsample="decoder_upscore_pool4", score="decoder_score_pool3")


@register
class Bilinear(keras.initializers.Initializer):
    """Kernel [k, k, C, C] of a transposed convolution that upsamples each channel bilinearly by k / 2, for even k."""

    def __call__(self, shape, dtype=None):
        size = shape[0]
        line = 1 - np.abs((np.arange(size) + 0.5) * 2 / size - 1)
        kernel = np.outer(line, line)[:, :, None, None] * np.eye(shape[2], shape[3])
        return keras.ops.convert_to_tensor(kernel, dtype or keras.config.floatx())


def _score_fc(x: Any, num_classes: int, filters: int, dropout: float) -> Any:
    for name, size in (("decoder_fc6", 7), ("decoder_fc7", 1)):
        x = Conv2D(filters, size, padding="same", kernel_initializer="he_normal", name=name)(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return _score(x, num_classes, "decoder_score_fr")


def _score(x: Any, num_classes: int, name: str) -> Any:
    return Conv2D(num_classes, 1, kernel_initializer="zeros", name=name)(x)


def _pool(features: dict[str, Any], level: int) -> Any:
    """Returns the paper's pool3 or pool4. A family with c0 (VGG) has its levels before the pool of their stage."""
    if "c0" not in features:
        return features[f"c{level}"]
    return MaxPooling2D(2, name=f"decoder_pool{level}")(features[f"c{level - 1}"])


def _add_skip(x: Any, skip: Any, *, upsample: str, score: str) -> Any:
    classes = x.shape[-1]
    x = keras.layers.Conv2DTranspose(
        classes, 4, strides=2, padding="same", use_bias=False, kernel_initializer=Bilinear(), name=upsample
    )(x)
    x = Resize(align_corners=False, name=f"{upsample}_fit")([x, skip])
    return keras.layers.Add(name=f"{score}_add")([x, _score(skip, classes, score)])
