"""The published configurations of keras-cv's backbones, by name.

keras-cv's named classes download them, even for random weights. Its base classes take them as arguments and download nothing.
tests/models/test_keras_cv.py compares the parameter count of each with the one that keras-cv states.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """Settings that all members of a keras-cv backbone class share.

    class_name: the base class in keras_cv.models.
    output_strides: the supported ones.
    levels: the name of the layer that outputs each level, or None if keras-cv's `pyramid_level_inputs` has it ("P4" is c4).
    options: arguments of the base class, besides the member's own configuration and `include_rescaling`.
    """

    class_name: str
    output_strides: tuple[int, ...]
    levels: dict[str, str | None]
    options: dict[str, Any] = field(default_factory=dict)


PYRAMID = {"c2": None, "c3": None, "c4": None, "c5": None}

RESNET = Family("ResNetBackbone", (8, 16, 32), {"c1": "conv1_relu", **PYRAMID})
# Pre-activation: the stem is a bare convolution, and the last block's sum is normalised only by post_bn.
RESNET_V2 = Family("ResNetV2Backbone", (8, 16, 32), {"c1": "conv1_conv", **PYRAMID, "c5": "post_relu"})
EFFICIENTNET_V1 = Family("EfficientNetV1Backbone", (8, 16, 32), {"c1": None, **PYRAMID})
EFFICIENTNET_V2 = Family("EfficientNetV2Backbone", (8, 16, 32), {"c1": None, **PYRAMID})
MOBILENET_V3 = Family("MobileNetV3Backbone", (8, 16, 32), {"c1": None, **PYRAMID})
DENSENET = Family("DenseNetBackbone", (32,), {"c1": "conv1_relu", **PYRAMID, "c5": "relu"})
CSP_DARKNET = Family("CSPDarkNetBackbone", (32,), {"c1": "stem_conv", **PYRAMID})
# keras-cv labels MiT's levels P1 to P4, but their strides are 4, 8, 16 and 32. It only builds MiT for a static square image;
# rebuilding the graph drops the size given here.
MIT = Family(
    "MiTBackbone",
    (32,),
    {"c2": "output_level_0", "c3": "output_level_1", "c4": "output_level_2", "c5": "output_level_3"},
    {"input_shape": (64, 64, 3)},
)
VGG16 = Family(
    "VGG16Backbone",
    (32,),
    {
        "c0": "block1_conv2",
        "c1": "block2_conv2",
        "c2": "block3_conv3",
        "c3": "block4_conv3",
        "c4": "block5_conv3",
        "c5": "block5_pool",
    },
    {"include_top": False, "input_shape": (None, None, 3)},
)


def _resnet(blocks: list[int], block_type: str) -> dict[str, Any]:
    return {
        "stackwise_filters": [64, 128, 256, 512],
        "stackwise_blocks": blocks,
        "stackwise_strides": [1, 2, 2, 2],
        "block_type": block_type,
    }


def _efficientnet_v1(width: float, depth: float) -> dict[str, Any]:
    return {
        "width_coefficient": width,
        "depth_coefficient": depth,
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    }


def _efficientnet_v2(stem: int, filters: list[int], repeats: list[int], width: float = 1.0, depth: float = 1.0) -> dict[str, Any]:
    stages = len(filters)
    return {
        "width_coefficient": width,
        "depth_coefficient": depth,
        "stackwise_kernel_sizes": [3] * stages,
        "stackwise_num_repeats": repeats,
        "stackwise_input_filters": [stem, *filters[:-1]],
        "stackwise_output_filters": filters,
        "stackwise_expansion_ratios": [1, 4, 4, 4] + [6] * (stages - 4),
        "stackwise_squeeze_and_excite_ratios": [0.0] * 3 + [0.25] * (stages - 3),
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1][:stages],
        "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * (stages - 3),
    }


def _efficientnet_v2_b(width: float, depth: float) -> dict[str, Any]:
    return _efficientnet_v2(32, [16, 32, 48, 96, 112, 192], [1, 2, 2, 3, 5, 8], width, depth)


def _csp_darknet(width: int, depth: int) -> dict[str, Any]:
    return {"stackwise_channels": [width * n for n in (1, 2, 4, 8)], "stackwise_depth": [depth * n for n in (1, 3, 3, 1)]}


_RESNET_BLOCKS = {
    18: ([2, 2, 2, 2], "basic_block"),
    34: ([3, 4, 6, 3], "basic_block"),
    50: ([3, 4, 6, 3], "block"),
    101: ([3, 4, 23, 3], "block"),
    152: ([3, 8, 36, 3], "block"),
}
_EFFICIENTNET_V1_SCALES = [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)]
_EFFICIENTNET_V2_SCALES = [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4)]
_MIT_DEPTHS = [[2, 2, 2, 2], [2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 18, 3], [3, 8, 27, 3], [3, 6, 40, 3]]
_CSP_DARKNET_SIZES = {"tiny": (48, 1), "s": (64, 1), "m": (96, 2), "l": (128, 3), "xl": (170, 4)}
_DENSENET_REPEATS = {121: [6, 12, 24, 16], 169: [6, 12, 32, 32], 201: [6, 12, 48, 32]}

BACKBONES: dict[str, tuple[Family, dict[str, Any]]] = {
    **{f"resnet{n}": (RESNET, _resnet(*blocks)) for n, blocks in _RESNET_BLOCKS.items()},
    **{f"resnet{n}_v2": (RESNET_V2, _resnet(*blocks)) for n, blocks in _RESNET_BLOCKS.items()},
    **{f"efficientnetv1_b{i}": (EFFICIENTNET_V1, _efficientnet_v1(*s)) for i, s in enumerate(_EFFICIENTNET_V1_SCALES)},
    **{f"efficientnetv2_b{i}": (EFFICIENTNET_V2, _efficientnet_v2_b(*s)) for i, s in enumerate(_EFFICIENTNET_V2_SCALES)},
    "efficientnetv2_s": (EFFICIENTNET_V2, _efficientnet_v2(24, [24, 48, 64, 128, 160, 256], [2, 4, 4, 6, 9, 15])),
    "efficientnetv2_m": (EFFICIENTNET_V2, _efficientnet_v2(24, [24, 48, 80, 160, 176, 304, 512], [3, 5, 5, 7, 14, 18, 5])),
    "efficientnetv2_l": (EFFICIENTNET_V2, _efficientnet_v2(32, [32, 64, 96, 192, 224, 384, 640], [4, 7, 7, 10, 19, 25, 7])),
    "mobilenet_v3_small": (
        MOBILENET_V3,
        {
            "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
            "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
            "stackwise_kernel_size": [3] * 3 + [5] * 8,
            "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
            "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
            "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
        },
    ),
    "mobilenet_v3_large": (
        MOBILENET_V3,
        {
            "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
            "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
            "stackwise_kernel_size": [3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5],
            "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
            "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
            "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
        },
    ),
    **{f"densenet{n}": (DENSENET, {"stackwise_num_repeats": repeats}) for n, repeats in _DENSENET_REPEATS.items()},
    **{
        f"mit_b{i}": (MIT, {"depths": depths, "embedding_dims": [32, 64, 160, 256] if i == 0 else [64, 128, 320, 512]})
        for i, depths in enumerate(_MIT_DEPTHS)
    },
    **{f"csp_darknet_{size}": (CSP_DARKNET, _csp_darknet(*scale)) for size, scale in _CSP_DARKNET_SIZES.items()},
    "vgg16": (VGG16, {}),
}

IMAGENET_PRESETS = {
    "csp_darknet_l", "csp_darknet_tiny", "densenet121", "densenet169", "densenet201", "efficientnetv2_b0", "efficientnetv2_b1",
    "efficientnetv2_b2", "efficientnetv2_s", "mit_b0", "mobilenet_v3_large", "mobilenet_v3_small", "resnet50", "resnet50_v2",
}  # fmt: skip
"""Members of BACKBONES whose ImageNet weights keras-cv publishes."""
