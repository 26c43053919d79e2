"""VGG in the layout of torchvision, timm and smp.

Simonyan and Zisserman 2015 (arXiv:1409.1556), without the classifier. Names ending in _bn have batch norm (Ioffe and Szegedy
2015, arXiv:1502.03167) after every convolution.
"""

from functools import partial

import keras

from kseg.models.backbones.registry import register_backbone, smp_weights
from kseg.models.blocks import batch_norm
from kseg.models.layers import Conv2D, MaxPooling2D

FILTERS = (64, 128, 256, 512, 512)
"""Filters of each stage's convolutions."""

CLASSIFIER = ("classifier.0", "classifier.3", "classifier.6", "pre_logits.fc1", "pre_logits.fc2", "head.fc")
"""Modules after the features: three in torchvision's checkpoints, three in timm's."""

VARIANTS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""3x3 convolutions in each stage."""

REVISIONS = {
    "vgg11": {"imagenet": "ad8b90e1051c38fdbf399cf5016886a1be357390"},
    "vgg13": {"imagenet": "1b70ff2580f101a8007a48b51e2b5d1e5925dc42"},
    "vgg16": {"imagenet": "49d74b799006ee252b86e25acd6f1fd8ac9a99c1"},
    "vgg19": {"imagenet": "2853d00d7bca364dbb98be4d6afa347e5aeec1f6"},
    "vgg11_bn": {"imagenet": "59757f9215032c9f092977092d57d26a9df7fd9c"},
    "vgg13_bn": {"imagenet": "9be454515193af6612261b7614fe90607e27b143"},
    "vgg16_bn": {"imagenet": "2c186d02fb519e93219a99a1c2af6295aef0bf0d"},
    "vgg19_bn": {"imagenet": "f09a924cb0d201ea6f61601df9559141382271d7"},
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""


def build(
    name: str,
    *,
    normalized: bool,
    output_stride: int,
    input_shape: tuple[int | None, int | None, int],
) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. Sizes are rounded down.

    normalized: batch norm after every convolution. Features are those of smp's encoder. c0 [B, H, W, 64] to c4
    [B, H // 16, W // 16, 512] are each stage's last ReLU, before its pool (the paper's conv1_2 to conv5_3). c5
    [B, H // 32, W // 32, 512] is the last pool. The paper's pool3 and pool4 are the max pools of c2 and c3.
    """
    x = images = keras.Input(input_shape, name="images")
    levels, index = {}, 0
    for stage, (filters, convolutions) in enumerate(zip(FILTERS, VARIANTS[name.removesuffix("_bn")], strict=True)):
        for _ in range(convolutions):
            x = Conv2D(
                filters, 3, padding="same", name=f"encoder_features_{index}",
                kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            )(x)  # fmt: skip
            if normalized:
                index += 1
                x = batch_norm(x, f"encoder_features_{index}")
            x = keras.layers.ReLU(name=f"encoder_features_{index + 1}")(x)
            index += 2
        levels[f"c{stage}"] = x
        x = MaxPooling2D(2, name=f"encoder_features_{index}")(x)
        index += 1
    levels["c5"] = x
    return keras.Model(images, levels, name="backbone")


for _name in VARIANTS:
    for _full_name, _normalized in ((_name, False), (f"{_name}_bn", True)):
        register_backbone(
            _full_name,
            partial(build, _full_name, normalized=_normalized),
            output_strides=(32,),
            weights=smp_weights(_full_name, REVISIONS[_full_name]),
            first_layer="features.0",
            unused_keys=CLASSIFIER,
            names={"smp": _full_name, "timm": _full_name},
        )
