"""VGG in torchvision's layout, which timm's and smp's weights share.

Simonyan and Zisserman 2015 (arXiv:1409.1556), without the classifier; the names that end in _bn put batch norm (Ioffe and
Szegedy 2015, arXiv:1502.03167) after every convolution.
"""

from functools import partial

import keras

from kseg.errors import KsegError
from kseg.models.backbones import register_backbone
from kseg.models.layers import Conv2D, batch_norm

FILTERS = (64, 128, 256, 512, 512)
"""Of each stage's convolutions."""

CLASSIFIER = ("classifier.0", "classifier.3", "classifier.6", "pre_logits.fc1", "pre_logits.fc2", "head.fc")
"""Modules behind the features in torchvision's checkpoints (the first three) and in timm's."""

VARIANTS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""3x3 convolutions in each stage."""


def build(
    name: str,
    *,
    normalized: bool,
    output_stride: int,
    weights: str | None,
    input_shape: tuple[int | None, int | None, int],
) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.backbones.build_backbone. Sizes are rounded down.

    normalized: batch norm after every convolution. Features, as smp's encoder yields them: c0 [B, H, W, 64] to c4
    [B, H // 16, W // 16, 512] are each stage's last ReLU, before its pool (in the paper's words conv1_2 to conv5_3); c5
    [B, H // 32, W // 32, 512] is the last pool. The paper's pool3 and pool4 are the max pools of c2 and c3.
    """
    if weights is not None:
        raise KsegError(f"backbone {name} cannot fetch weights {weights!r} yet; use --backbone_weights=none")
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
        x = keras.layers.MaxPooling2D(2, name=f"encoder_features_{index}")(x)
        index += 1
    levels["c5"] = x
    return keras.Model(images, levels, name="backbone")


for _name in VARIANTS:
    for _full_name, _normalized in ((_name, False), (f"{_name}_bn", True)):
        register_backbone(
            _full_name,
            partial(build, _full_name, normalized=_normalized),
            output_strides=(32,),
            first_layer="features.0",
            unused_keys=CLASSIFIER,
        )
