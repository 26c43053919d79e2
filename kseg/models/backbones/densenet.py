"""DenseNet (Huang et al. 2017, arXiv:1608.06993) in the layout of torchvision and smp."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from kseg.models.backbones.registry import register_backbone, smp_weights
from kseg.models.blocks import batch_norm, bn_relu, conv
from kseg.models.layers import MaxPooling2D


@dataclass(frozen=True)
class Variant:
    """Settings of a member of the family.

    blocks: dense layers in each of the four blocks. growth: the channels that each adds. stem: the channels before the first.
    """

    blocks: tuple[int, int, int, int]
    growth: int = 32
    stem: int = 64


VARIANTS = {
    "densenet121": Variant((6, 12, 24, 16)),
    "densenet161": Variant((6, 12, 36, 24), growth=48, stem=96),
    "densenet169": Variant((6, 12, 32, 32)),
    "densenet201": Variant((6, 12, 48, 32)),
}
BOTTLENECK = 4
"""Channels between the two convolutions of a dense layer, in multiples of `growth`."""
REVISIONS = {
    "densenet121": {"imagenet": "a17c96896a265b61338f66f61d3887b24f61995a"},
    "densenet161": {"imagenet": "9afe0fec51ab2a627141769d97d6f83756d78446"},
    "densenet169": {"imagenet": "8facfba9fc72f7750879dac9ac6ceb3ab990de8d"},
    "densenet201": {"imagenet": "ed5deb355d71659391d46fae5e7587460fbb5f84"},
}
"""Commits of smp-hub/<name>.<tag>, as segmentation_models.pytorch 0.6.0 names them."""


def build(name: str, *, output_stride: int, input_shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Builds the backbone `name`; see kseg.models.build.build_backbone. output_stride: 32.

    Features as in smp: c1 is the stem, c2 to c4 are the transitions before their convolutions, and c5 is linear. Sizes of c1 and
    c2 are rounded up, of c3 to c5 down.
    """
    variant = VARIANTS[name]
    images = keras.Input(input_shape, name="images")
    x = _conv(images, variant.stem, 7, stride=2, name="encoder_features_conv0")
    x = bn_relu(x, "encoder_features_norm0", "encoder_features_relu0")
    levels = {"c1": x}
    # After a ReLU, padding with zeros equals padding with minus infinity.
    x = keras.layers.ZeroPadding2D(1, name="encoder_features_pool0_pad")(x)
    x = MaxPooling2D(3, 2, name="encoder_features_pool0")(x)
    for number, layers in enumerate(variant.blocks, start=1):
        for layer in range(1, layers + 1):
            x = _dense_layer(x, variant.growth, f"encoder_features_denseblock{number}_denselayer{layer}")
        if number == len(variant.blocks):
            break
        transition = f"encoder_features_transition{number}"
        levels[f"c{number + 1}"] = x = bn_relu(x, f"{transition}_norm", f"{transition}_relu")
        x = _conv(x, x.shape[-1] // 2, 1, name=f"{transition}_conv")
        x = keras.layers.AveragePooling2D(2, name=f"{transition}_pool")(x)
    levels["c5"] = batch_norm(x, "encoder_features_norm5")
    return keras.Model(images, levels, name="backbone")


def _dense_layer(x: Any, growth: int, name: str) -> Any:
    """Appends `growth` channels to x, computed from all of its channels."""
    y = _conv(bn_relu(x, f"{name}_norm1", f"{name}_relu1"), BOTTLENECK * growth, 1, name=f"{name}_conv1")
    y = _conv(bn_relu(y, f"{name}_norm2", f"{name}_relu2"), growth, 3, name=f"{name}_conv2")
    return keras.layers.Concatenate(name=f"{name}_concat")([x, y])


def _conv(x: Any, filters: int, size: int, *, stride: int = 1, name: str) -> Any:
    initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    return conv(x, filters, size, stride=stride, initializer=initializer, name=name)


def current_names(names: Iterable[str], layers: Iterable[str]) -> dict[str, str]:
    """Returns the layers that the modules of torchvision's first files belong to, by module; empty for current names.

    These files say `norm.1` for `norm1`, and so on. names: module paths with "_" for ".".
    """
    own = {name: re.sub(r"(denselayer\d+_(?:norm|conv))_(?=[12]$)", r"\1", name) for name in names}
    if all(old == new for old, new in own.items()):
        return {}
    return {old: f"encoder_{new}" for old, new in own.items() if new.startswith(("features_", "classifier"))}


for _name in VARIANTS:
    register_backbone(
        _name,
        partial(build, _name),
        output_strides=(32,),
        weights=smp_weights(_name, REVISIONS[_name]),
        first_layer="features.conv0",
        unused_keys=("classifier",),
        names={"smp": _name},
        other_names=current_names,
    )
